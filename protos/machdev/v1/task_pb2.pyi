from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class AttachRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ("token", "owner", "network", "server_version", "max_vector_frames", "max_vector_bytes")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_VECTOR_FRAMES_FIELD_NUMBER: _ClassVar[int]
    MAX_VECTOR_BYTES_FIELD_NUMBER: _ClassVar[int]
    token: str
    owner: str
    network: str
    server_version: str
    max_vector_frames: int
    max_vector_bytes: int
    def __init__(self, token: _Optional[str] = ..., owner: _Optional[str] = ..., network: _Optional[str] = ..., server_version: _Optional[str] = ..., max_vector_frames: _Optional[int] = ..., max_vector_bytes: _Optional[int] = ...) -> None: ...
