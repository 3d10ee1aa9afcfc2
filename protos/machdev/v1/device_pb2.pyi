from machdev.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LinkKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINK_KIND_UNSPECIFIED: _ClassVar[LinkKind]
    LINK_KIND_TAP: _ClassVar[LinkKind]
LINK_KIND_UNSPECIFIED: LinkKind
LINK_KIND_TAP: LinkKind

class DeviceOpenRequest(_message.Message):
    __slots__ = ("mode", "name", "exclusive", "role")
    MODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    mode: int
    name: str
    exclusive: bool
    role: _types_pb2.OpenRole
    def __init__(self, mode: _Optional[int] = ..., name: _Optional[str] = ..., exclusive: _Optional[bool] = ..., role: _Optional[_Union[_types_pb2.OpenRole, str]] = ...) -> None: ...

class DeviceOpenResponse(_message.Message):
    __slots__ = ("port", "name", "mac_address", "mtu_bytes", "network")
    PORT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MTU_BYTES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    name: str
    mac_address: bytes
    mtu_bytes: int
    network: str
    def __init__(self, port: _Optional[bytes] = ..., name: _Optional[str] = ..., mac_address: _Optional[bytes] = ..., mtu_bytes: _Optional[int] = ..., network: _Optional[str] = ...) -> None: ...

class DeviceOpenNewRequest(_message.Message):
    __slots__ = ("mode", "name", "exclusive", "role")
    MODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    mode: int
    name: str
    exclusive: bool
    role: _types_pb2.OpenRole
    def __init__(self, mode: _Optional[int] = ..., name: _Optional[str] = ..., exclusive: _Optional[bool] = ..., role: _Optional[_Union[_types_pb2.OpenRole, str]] = ...) -> None: ...

class DeviceOpenNewResponse(_message.Message):
    __slots__ = ("port", "name", "mac_address", "mtu_bytes", "network")
    PORT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MTU_BYTES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    name: str
    mac_address: bytes
    mtu_bytes: int
    network: str
    def __init__(self, port: _Optional[bytes] = ..., name: _Optional[str] = ..., mac_address: _Optional[bytes] = ..., mtu_bytes: _Optional[int] = ..., network: _Optional[str] = ...) -> None: ...

class DeviceCloseRequest(_message.Message):
    __slots__ = ("port",)
    PORT_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    def __init__(self, port: _Optional[bytes] = ...) -> None: ...

class DeviceCloseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeviceWriteRequest(_message.Message):
    __slots__ = ("port", "mode", "recnum", "data")
    PORT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    RECNUM_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    mode: int
    recnum: int
    data: bytes
    def __init__(self, port: _Optional[bytes] = ..., mode: _Optional[int] = ..., recnum: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class DeviceWriteResponse(_message.Message):
    __slots__ = ("bytes_written", "drops")
    BYTES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    bytes_written: int
    drops: _containers.RepeatedCompositeFieldContainer[_types_pb2.DropCount]
    def __init__(self, bytes_written: _Optional[int] = ..., drops: _Optional[_Iterable[_Union[_types_pb2.DropCount, _Mapping]]] = ...) -> None: ...

class DeviceWriteInbandRequest(_message.Message):
    __slots__ = ("port", "mode", "recnum", "data")
    PORT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    RECNUM_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    mode: int
    recnum: int
    data: bytes
    def __init__(self, port: _Optional[bytes] = ..., mode: _Optional[int] = ..., recnum: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class DeviceWriteInbandResponse(_message.Message):
    __slots__ = ("bytes_written", "drops")
    BYTES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    bytes_written: int
    drops: _containers.RepeatedCompositeFieldContainer[_types_pb2.DropCount]
    def __init__(self, bytes_written: _Optional[int] = ..., drops: _Optional[_Iterable[_Union[_types_pb2.DropCount, _Mapping]]] = ...) -> None: ...

class DeviceReadRequest(_message.Message):
    __slots__ = ("port", "mode", "recnum", "bytes_wanted")
    PORT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    RECNUM_FIELD_NUMBER: _ClassVar[int]
    BYTES_WANTED_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    mode: int
    recnum: int
    bytes_wanted: int
    def __init__(self, port: _Optional[bytes] = ..., mode: _Optional[int] = ..., recnum: _Optional[int] = ..., bytes_wanted: _Optional[int] = ...) -> None: ...

class DeviceReadResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class DeviceReadInbandRequest(_message.Message):
    __slots__ = ("port", "mode", "recnum", "bytes_wanted")
    PORT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    RECNUM_FIELD_NUMBER: _ClassVar[int]
    BYTES_WANTED_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    mode: int
    recnum: int
    bytes_wanted: int
    def __init__(self, port: _Optional[bytes] = ..., mode: _Optional[int] = ..., recnum: _Optional[int] = ..., bytes_wanted: _Optional[int] = ...) -> None: ...

class DeviceReadInbandResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class DeviceWriteVectorRequest(_message.Message):
    __slots__ = ("port", "mode", "recnum", "frames")
    PORT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    RECNUM_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    mode: int
    recnum: int
    frames: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, port: _Optional[bytes] = ..., mode: _Optional[int] = ..., recnum: _Optional[int] = ..., frames: _Optional[_Iterable[bytes]] = ...) -> None: ...

class DeviceWriteVectorResponse(_message.Message):
    __slots__ = ("bytes_written", "drops")
    BYTES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    bytes_written: int
    drops: _containers.RepeatedCompositeFieldContainer[_types_pb2.DropCount]
    def __init__(self, bytes_written: _Optional[int] = ..., drops: _Optional[_Iterable[_Union[_types_pb2.DropCount, _Mapping]]] = ...) -> None: ...

class DeviceReadVectorRequest(_message.Message):
    __slots__ = ("port", "mode", "recnum", "bytes_wanted", "max_frames")
    PORT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    RECNUM_FIELD_NUMBER: _ClassVar[int]
    BYTES_WANTED_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAMES_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    mode: int
    recnum: int
    bytes_wanted: int
    max_frames: int
    def __init__(self, port: _Optional[bytes] = ..., mode: _Optional[int] = ..., recnum: _Optional[int] = ..., bytes_wanted: _Optional[int] = ..., max_frames: _Optional[int] = ...) -> None: ...

class DeviceReadVectorResponse(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, frames: _Optional[_Iterable[bytes]] = ...) -> None: ...

class DeviceGetStatusRequest(_message.Message):
    __slots__ = ("port", "flavor", "status_count")
    PORT_FIELD_NUMBER: _ClassVar[int]
    FLAVOR_FIELD_NUMBER: _ClassVar[int]
    STATUS_COUNT_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    flavor: int
    status_count: int
    def __init__(self, port: _Optional[bytes] = ..., flavor: _Optional[int] = ..., status_count: _Optional[int] = ...) -> None: ...

class DeviceGetStatusResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, status: _Optional[_Iterable[int]] = ...) -> None: ...

class DeviceSetStatusRequest(_message.Message):
    __slots__ = ("port", "flavor", "status")
    PORT_FIELD_NUMBER: _ClassVar[int]
    FLAVOR_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    flavor: int
    status: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, port: _Optional[bytes] = ..., flavor: _Optional[int] = ..., status: _Optional[_Iterable[int]] = ...) -> None: ...

class DeviceSetStatusResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeviceSetFilterRequest(_message.Message):
    __slots__ = ("port", "receive_port", "priority", "filter")
    PORT_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_PORT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    receive_port: bytes
    priority: int
    filter: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, port: _Optional[bytes] = ..., receive_port: _Optional[bytes] = ..., priority: _Optional[int] = ..., filter: _Optional[_Iterable[int]] = ...) -> None: ...

class DeviceSetFilterResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeviceClaimRequest(_message.Message):
    __slots__ = ("port", "address")
    PORT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    address: str
    def __init__(self, port: _Optional[bytes] = ..., address: _Optional[str] = ...) -> None: ...

class DeviceClaimResponse(_message.Message):
    __slots__ = ("address", "lapse_s")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LAPSE_S_FIELD_NUMBER: _ClassVar[int]
    address: str
    lapse_s: int
    def __init__(self, address: _Optional[str] = ..., lapse_s: _Optional[int] = ...) -> None: ...

class DeviceUnclaimRequest(_message.Message):
    __slots__ = ("port", "address")
    PORT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    address: str
    def __init__(self, port: _Optional[bytes] = ..., address: _Optional[str] = ...) -> None: ...

class DeviceUnclaimResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeviceAttachRequest(_message.Message):
    __slots__ = ("port", "kind")
    PORT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    kind: LinkKind
    def __init__(self, port: _Optional[bytes] = ..., kind: _Optional[_Union[LinkKind, str]] = ...) -> None: ...

class DeviceAttachResponse(_message.Message):
    __slots__ = ("ticket", "lifetime_ms")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_MS_FIELD_NUMBER: _ClassVar[int]
    ticket: str
    lifetime_ms: int
    def __init__(self, ticket: _Optional[str] = ..., lifetime_ms: _Optional[int] = ...) -> None: ...

class DeviceMapRequest(_message.Message):
    __slots__ = ("port", "prot", "offset", "size", "unmap")
    PORT_FIELD_NUMBER: _ClassVar[int]
    PROT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    UNMAP_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    prot: int
    offset: int
    size: int
    unmap: int
    def __init__(self, port: _Optional[bytes] = ..., prot: _Optional[int] = ..., offset: _Optional[int] = ..., size: _Optional[int] = ..., unmap: _Optional[int] = ...) -> None: ...

class DeviceMapResponse(_message.Message):
    __slots__ = ("pager",)
    PAGER_FIELD_NUMBER: _ClassVar[int]
    pager: bytes
    def __init__(self, pager: _Optional[bytes] = ...) -> None: ...

class DeviceIntrRegisterRequest(_message.Message):
    __slots__ = ("port", "id", "flags", "receive_port")
    PORT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_PORT_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    id: int
    flags: int
    receive_port: bytes
    def __init__(self, port: _Optional[bytes] = ..., id: _Optional[int] = ..., flags: _Optional[int] = ..., receive_port: _Optional[bytes] = ...) -> None: ...

class DeviceIntrRegisterResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeviceIntrAckRequest(_message.Message):
    __slots__ = ("port", "receive_port")
    PORT_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_PORT_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    receive_port: bytes
    def __init__(self, port: _Optional[bytes] = ..., receive_port: _Optional[bytes] = ...) -> None: ...

class DeviceIntrAckResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeviceRequestsRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[DeviceRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[DeviceRequest, _Mapping]]] = ...) -> None: ...

class DeviceRequestsResponse(_message.Message):
    __slots__ = ("replies",)
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[DeviceReply]
    def __init__(self, replies: _Optional[_Iterable[_Union[DeviceReply, _Mapping]]] = ...) -> None: ...

class DeviceRequest(_message.Message):
    __slots__ = ("id", "open", "write", "write_inband", "read", "read_inband", "open_new", "write_vector", "read_vector", "cancel")
    ID_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    WRITE_INBAND_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    READ_INBAND_FIELD_NUMBER: _ClassVar[int]
    OPEN_NEW_FIELD_NUMBER: _ClassVar[int]
    WRITE_VECTOR_FIELD_NUMBER: _ClassVar[int]
    READ_VECTOR_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    id: int
    open: DeviceOpenRequest
    write: DeviceWriteRequest
    write_inband: DeviceWriteInbandRequest
    read: DeviceReadRequest
    read_inband: DeviceReadInbandRequest
    open_new: DeviceOpenNewRequest
    write_vector: DeviceWriteVectorRequest
    read_vector: DeviceReadVectorRequest
    cancel: DeviceCancelRequest
    def __init__(self, id: _Optional[int] = ..., open: _Optional[_Union[DeviceOpenRequest, _Mapping]] = ..., write: _Optional[_Union[DeviceWriteRequest, _Mapping]] = ..., write_inband: _Optional[_Union[DeviceWriteInbandRequest, _Mapping]] = ..., read: _Optional[_Union[DeviceReadRequest, _Mapping]] = ..., read_inband: _Optional[_Union[DeviceReadInbandRequest, _Mapping]] = ..., open_new: _Optional[_Union[DeviceOpenNewRequest, _Mapping]] = ..., write_vector: _Optional[_Union[DeviceWriteVectorRequest, _Mapping]] = ..., read_vector: _Optional[_Union[DeviceReadVectorRequest, _Mapping]] = ..., cancel: _Optional[_Union[DeviceCancelRequest, _Mapping]] = ...) -> None: ...

class DeviceReply(_message.Message):
    __slots__ = ("id", "open", "write", "write_inband", "read", "read_inband", "open_new", "write_vector", "read_vector", "cancel", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    WRITE_INBAND_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    READ_INBAND_FIELD_NUMBER: _ClassVar[int]
    OPEN_NEW_FIELD_NUMBER: _ClassVar[int]
    WRITE_VECTOR_FIELD_NUMBER: _ClassVar[int]
    READ_VECTOR_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    open: DeviceOpenResponse
    write: DeviceWriteResponse
    write_inband: DeviceWriteInbandResponse
    read: DeviceReadResponse
    read_inband: DeviceReadInbandResponse
    open_new: DeviceOpenNewResponse
    write_vector: DeviceWriteVectorResponse
    read_vector: DeviceReadVectorResponse
    cancel: DeviceCancelResponse
    error: DeviceError
    def __init__(self, id: _Optional[int] = ..., open: _Optional[_Union[DeviceOpenResponse, _Mapping]] = ..., write: _Optional[_Union[DeviceWriteResponse, _Mapping]] = ..., write_inband: _Optional[_Union[DeviceWriteInbandResponse, _Mapping]] = ..., read: _Optional[_Union[DeviceReadResponse, _Mapping]] = ..., read_inband: _Optional[_Union[DeviceReadInbandResponse, _Mapping]] = ..., open_new: _Optional[_Union[DeviceOpenNewResponse, _Mapping]] = ..., write_vector: _Optional[_Union[DeviceWriteVectorResponse, _Mapping]] = ..., read_vector: _Optional[_Union[DeviceReadVectorResponse, _Mapping]] = ..., cancel: _Optional[_Union[DeviceCancelResponse, _Mapping]] = ..., error: _Optional[_Union[DeviceError, _Mapping]] = ...) -> None: ...

class DeviceCancelRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    def __init__(self, request_id: _Optional[int] = ...) -> None: ...

class DeviceCancelResponse(_message.Message):
    __slots__ = ("cancelled",)
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    cancelled: bool
    def __init__(self, cancelled: _Optional[bool] = ...) -> None: ...

class DeviceError(_message.Message):
    __slots__ = ("mach_return_code", "reason", "message")
    MACH_RETURN_CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    mach_return_code: int
    reason: str
    message: str
    def __init__(self, mach_return_code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
