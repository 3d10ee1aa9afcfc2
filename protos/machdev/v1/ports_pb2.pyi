from machdev.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NotificationKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NOTIFICATION_KIND_UNSPECIFIED: _ClassVar[NotificationKind]
    NOTIFICATION_KIND_DEAD_NAME: _ClassVar[NotificationKind]
    NOTIFICATION_KIND_NO_SENDERS: _ClassVar[NotificationKind]
    NOTIFICATION_KIND_FRAME_ARRIVED: _ClassVar[NotificationKind]
    NOTIFICATION_KIND_DEVICE_STATE: _ClassVar[NotificationKind]
NOTIFICATION_KIND_UNSPECIFIED: NotificationKind
NOTIFICATION_KIND_DEAD_NAME: NotificationKind
NOTIFICATION_KIND_NO_SENDERS: NotificationKind
NOTIFICATION_KIND_FRAME_ARRIVED: NotificationKind
NOTIFICATION_KIND_DEVICE_STATE: NotificationKind

class PortAllocateRequest(_message.Message):
    __slots__ = ("qlimit", "port_set")
    QLIMIT_FIELD_NUMBER: _ClassVar[int]
    PORT_SET_FIELD_NUMBER: _ClassVar[int]
    qlimit: int
    port_set: bool
    def __init__(self, qlimit: _Optional[int] = ..., port_set: _Optional[bool] = ...) -> None: ...

class PortAllocateResponse(_message.Message):
    __slots__ = ("port",)
    PORT_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    def __init__(self, port: _Optional[bytes] = ...) -> None: ...

class PortDestroyRequest(_message.Message):
    __slots__ = ("port",)
    PORT_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    def __init__(self, port: _Optional[bytes] = ...) -> None: ...

class PortDestroyResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PortSetQlimitRequest(_message.Message):
    __slots__ = ("port", "qlimit")
    PORT_FIELD_NUMBER: _ClassVar[int]
    QLIMIT_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    qlimit: int
    def __init__(self, port: _Optional[bytes] = ..., qlimit: _Optional[int] = ...) -> None: ...

class PortSetQlimitResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PortMoveMemberRequest(_message.Message):
    __slots__ = ("port", "port_set")
    PORT_FIELD_NUMBER: _ClassVar[int]
    PORT_SET_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    port_set: bytes
    def __init__(self, port: _Optional[bytes] = ..., port_set: _Optional[bytes] = ...) -> None: ...

class PortMoveMemberResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PortRequestNotificationRequest(_message.Message):
    __slots__ = ("port", "kind", "notify_port", "sync")
    PORT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NOTIFY_PORT_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    kind: NotificationKind
    notify_port: bytes
    sync: int
    def __init__(self, port: _Optional[bytes] = ..., kind: _Optional[_Union[NotificationKind, str]] = ..., notify_port: _Optional[bytes] = ..., sync: _Optional[int] = ...) -> None: ...

class PortRequestNotificationResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PortGetStatusRequest(_message.Message):
    __slots__ = ("port",)
    PORT_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    def __init__(self, port: _Optional[bytes] = ...) -> None: ...

class PortGetStatusResponse(_message.Message):
    __slots__ = ("qlimit", "queued", "delivered", "drops", "senders", "make_sends", "port_set")
    QLIMIT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    SENDERS_FIELD_NUMBER: _ClassVar[int]
    MAKE_SENDS_FIELD_NUMBER: _ClassVar[int]
    PORT_SET_FIELD_NUMBER: _ClassVar[int]
    qlimit: int
    queued: int
    delivered: int
    drops: _containers.RepeatedCompositeFieldContainer[_types_pb2.DropCount]
    senders: int
    make_sends: int
    port_set: bytes
    def __init__(self, qlimit: _Optional[int] = ..., queued: _Optional[int] = ..., delivered: _Optional[int] = ..., drops: _Optional[_Iterable[_Union[_types_pb2.DropCount, _Mapping]]] = ..., senders: _Optional[int] = ..., make_sends: _Optional[int] = ..., port_set: _Optional[bytes] = ...) -> None: ...

class PortReceiveRequest(_message.Message):
    __slots__ = ("port", "max_messages")
    PORT_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    max_messages: int
    def __init__(self, port: _Optional[bytes] = ..., max_messages: _Optional[int] = ...) -> None: ...

class PortReceiveResponse(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[PortMessage]
    def __init__(self, messages: _Optional[_Iterable[_Union[PortMessage, _Mapping]]] = ...) -> None: ...

class PortMessage(_message.Message):
    __slots__ = ("receive_port", "net_rcv_msg", "dead_name", "no_senders", "frame_arrived", "device_state", "lost")
    RECEIVE_PORT_FIELD_NUMBER: _ClassVar[int]
    NET_RCV_MSG_FIELD_NUMBER: _ClassVar[int]
    DEAD_NAME_FIELD_NUMBER: _ClassVar[int]
    NO_SENDERS_FIELD_NUMBER: _ClassVar[int]
    FRAME_ARRIVED_FIELD_NUMBER: _ClassVar[int]
    DEVICE_STATE_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    receive_port: bytes
    net_rcv_msg: NetRcvMsg
    dead_name: DeadNameNotification
    no_senders: NoSendersNotification
    frame_arrived: FrameArrivedNotification
    device_state: DeviceStateNotification
    lost: MessagesLost
    def __init__(self, receive_port: _Optional[bytes] = ..., net_rcv_msg: _Optional[_Union[NetRcvMsg, _Mapping]] = ..., dead_name: _Optional[_Union[DeadNameNotification, _Mapping]] = ..., no_senders: _Optional[_Union[NoSendersNotification, _Mapping]] = ..., frame_arrived: _Optional[_Union[FrameArrivedNotification, _Mapping]] = ..., device_state: _Optional[_Union[DeviceStateNotification, _Mapping]] = ..., lost: _Optional[_Union[MessagesLost, _Mapping]] = ...) -> None: ...

class NetRcvMsg(_message.Message):
    __slots__ = ("header", "packet")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PACKET_FIELD_NUMBER: _ClassVar[int]
    header: bytes
    packet: bytes
    def __init__(self, header: _Optional[bytes] = ..., packet: _Optional[bytes] = ...) -> None: ...

class DeadNameNotification(_message.Message):
    __slots__ = ("port",)
    PORT_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    def __init__(self, port: _Optional[bytes] = ...) -> None: ...

class NoSendersNotification(_message.Message):
    __slots__ = ("port", "make_sends")
    PORT_FIELD_NUMBER: _ClassVar[int]
    MAKE_SENDS_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    make_sends: int
    def __init__(self, port: _Optional[bytes] = ..., make_sends: _Optional[int] = ...) -> None: ...

class FrameArrivedNotification(_message.Message):
    __slots__ = ("device_port",)
    DEVICE_PORT_FIELD_NUMBER: _ClassVar[int]
    device_port: bytes
    def __init__(self, device_port: _Optional[bytes] = ...) -> None: ...

class DeviceStateNotification(_message.Message):
    __slots__ = ("device_port", "flags", "mac_address", "mtu_bytes", "addresses")
    DEVICE_PORT_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    MAC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MTU_BYTES_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    device_port: bytes
    flags: int
    mac_address: bytes
    mtu_bytes: int
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, device_port: _Optional[bytes] = ..., flags: _Optional[int] = ..., mac_address: _Optional[bytes] = ..., mtu_bytes: _Optional[int] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class MessagesLost(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: int
    def __init__(self, messages: _Optional[int] = ...) -> None: ...
