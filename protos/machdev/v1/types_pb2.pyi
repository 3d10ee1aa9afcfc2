from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class OpenRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPEN_ROLE_UNSPECIFIED: _ClassVar[OpenRole]
    OPEN_ROLE_STACK: _ClassVar[OpenRole]
    OPEN_ROLE_MONITOR: _ClassVar[OpenRole]
OPEN_ROLE_UNSPECIFIED: OpenRole
OPEN_ROLE_STACK: OpenRole
OPEN_ROLE_MONITOR: OpenRole

class DropCount(_message.Message):
    __slots__ = ("reason", "copies")
    REASON_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    reason: str
    copies: int
    def __init__(self, reason: _Optional[str] = ..., copies: _Optional[int] = ...) -> None: ...
