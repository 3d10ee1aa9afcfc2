from google.protobuf import wrappers_pb2 as _wrappers_pb2
from machdev.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LinkState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINK_STATE_UNSPECIFIED: _ClassVar[LinkState]
    LINK_STATE_UP: _ClassVar[LinkState]
    LINK_STATE_DOWN: _ClassVar[LinkState]
    LINK_STATE_WAITING: _ClassVar[LinkState]

class LeaseKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEASE_KIND_UNSPECIFIED: _ClassVar[LeaseKind]
    LEASE_KIND_POLICY: _ClassVar[LeaseKind]
    LEASE_KIND_CLAIMED: _ClassVar[LeaseKind]
    LEASE_KIND_DHCP: _ClassVar[LeaseKind]
LINK_STATE_UNSPECIFIED: LinkState
LINK_STATE_UP: LinkState
LINK_STATE_DOWN: LinkState
LINK_STATE_WAITING: LinkState
LEASE_KIND_UNSPECIFIED: LeaseKind
LEASE_KIND_POLICY: LeaseKind
LEASE_KIND_CLAIMED: LeaseKind
LEASE_KIND_DHCP: LeaseKind

class ReloadPolicyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadPolicyResponse(_message.Message):
    __slots__ = ("applied", "changes", "unapplied", "problems")
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    UNAPPLIED_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    applied: bool
    changes: _containers.RepeatedScalarFieldContainer[str]
    unapplied: _containers.RepeatedScalarFieldContainer[str]
    problems: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, applied: _Optional[bool] = ..., changes: _Optional[_Iterable[str]] = ..., unapplied: _Optional[_Iterable[str]] = ..., problems: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchMembersRequest(_message.Message):
    __slots__ = ("port",)
    PORT_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    def __init__(self, port: _Optional[bytes] = ...) -> None: ...

class WatchMembersResponse(_message.Message):
    __slots__ = ("members", "taken", "is_complete", "is_everybody", "may_route", "may_serve")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    IS_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    IS_EVERYBODY_FIELD_NUMBER: _ClassVar[int]
    MAY_ROUTE_FIELD_NUMBER: _ClassVar[int]
    MAY_SERVE_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    taken: _containers.RepeatedScalarFieldContainer[str]
    is_complete: bool
    is_everybody: bool
    may_route: bool
    may_serve: bool
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., taken: _Optional[_Iterable[str]] = ..., is_complete: _Optional[bool] = ..., is_everybody: _Optional[bool] = ..., may_route: _Optional[bool] = ..., may_serve: _Optional[bool] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("owner", "name", "mac_address", "addresses", "is_assigned", "is_open")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    IS_ASSIGNED_FIELD_NUMBER: _ClassVar[int]
    IS_OPEN_FIELD_NUMBER: _ClassVar[int]
    owner: str
    name: str
    mac_address: bytes
    addresses: _containers.RepeatedScalarFieldContainer[str]
    is_assigned: bool
    is_open: bool
    def __init__(self, owner: _Optional[str] = ..., name: _Optional[str] = ..., mac_address: _Optional[bytes] = ..., addresses: _Optional[_Iterable[str]] = ..., is_assigned: _Optional[bool] = ..., is_open: _Optional[bool] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("network",)
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    network: str
    def __init__(self, network: _Optional[str] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("server_version", "uptime_s", "networks", "nodes", "data_path", "writes_left_behind")
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    NETWORKS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    DATA_PATH_FIELD_NUMBER: _ClassVar[int]
    WRITES_LEFT_BEHIND_FIELD_NUMBER: _ClassVar[int]
    server_version: str
    uptime_s: float
    networks: _containers.RepeatedCompositeFieldContainer[Network]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    data_path: str
    writes_left_behind: int
    def __init__(self, server_version: _Optional[str] = ..., uptime_s: _Optional[float] = ..., networks: _Optional[_Iterable[_Union[Network, _Mapping]]] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., data_path: _Optional[str] = ..., writes_left_behind: _Optional[int] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("path", "network", "connections")
    PATH_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    path: str
    network: str
    connections: int
    def __init__(self, path: _Optional[str] = ..., network: _Optional[str] = ..., connections: _Optional[int] = ...) -> None: ...

class Network(_message.Message):
    __slots__ = ("name", "mode", "guard", "mtu_bytes", "subnets", "devices", "opens", "tasks", "pool_frames", "pool_free_frames", "pool_bytes", "pool_free_bytes", "held_reads", "held_writes", "frames", "bytes", "copies_delivered", "drops", "fdb_entries", "fdb_capacity")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    GUARD_FIELD_NUMBER: _ClassVar[int]
    MTU_BYTES_FIELD_NUMBER: _ClassVar[int]
    SUBNETS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    OPENS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    POOL_FRAMES_FIELD_NUMBER: _ClassVar[int]
    POOL_FREE_FRAMES_FIELD_NUMBER: _ClassVar[int]
    POOL_BYTES_FIELD_NUMBER: _ClassVar[int]
    POOL_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HELD_READS_FIELD_NUMBER: _ClassVar[int]
    HELD_WRITES_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    COPIES_DELIVERED_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    FDB_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    FDB_CAPACITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    mode: str
    guard: str
    mtu_bytes: int
    subnets: _containers.RepeatedScalarFieldContainer[str]
    devices: int
    opens: int
    tasks: int
    pool_frames: int
    pool_free_frames: int
    pool_bytes: int
    pool_free_bytes: int
    held_reads: int
    held_writes: int
    frames: int
    bytes: int
    copies_delivered: int
    drops: _containers.RepeatedCompositeFieldContainer[_types_pb2.DropCount]
    fdb_entries: int
    fdb_capacity: int
    def __init__(self, name: _Optional[str] = ..., mode: _Optional[str] = ..., guard: _Optional[str] = ..., mtu_bytes: _Optional[int] = ..., subnets: _Optional[_Iterable[str]] = ..., devices: _Optional[int] = ..., opens: _Optional[int] = ..., tasks: _Optional[int] = ..., pool_frames: _Optional[int] = ..., pool_free_frames: _Optional[int] = ..., pool_bytes: _Optional[int] = ..., pool_free_bytes: _Optional[int] = ..., held_reads: _Optional[int] = ..., held_writes: _Optional[int] = ..., frames: _Optional[int] = ..., bytes: _Optional[int] = ..., copies_delivered: _Optional[int] = ..., drops: _Optional[_Iterable[_Union[_types_pb2.DropCount, _Mapping]]] = ..., fdb_entries: _Optional[int] = ..., fdb_capacity: _Optional[int] = ...) -> None: ...

class ListDevicesRequest(_message.Message):
    __slots__ = ("network",)
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    network: str
    def __init__(self, network: _Optional[str] = ...) -> None: ...

class ListDevicesResponse(_message.Message):
    __slots__ = ("devices",)
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    def __init__(self, devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("network", "owner", "name", "mac_address", "addresses", "flags", "mtu_bytes", "opens", "link", "tx_frames", "tx_bytes", "rx_frames", "rx_bytes", "tx_drops", "rx_drops", "held_reads", "held_writes", "rx_slots_used", "stalled", "link_status", "filters", "filtered_frames", "vlans", "is_tagged", "mirror")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    MTU_BYTES_FIELD_NUMBER: _ClassVar[int]
    OPENS_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    TX_FRAMES_FIELD_NUMBER: _ClassVar[int]
    TX_BYTES_FIELD_NUMBER: _ClassVar[int]
    RX_FRAMES_FIELD_NUMBER: _ClassVar[int]
    RX_BYTES_FIELD_NUMBER: _ClassVar[int]
    TX_DROPS_FIELD_NUMBER: _ClassVar[int]
    RX_DROPS_FIELD_NUMBER: _ClassVar[int]
    HELD_READS_FIELD_NUMBER: _ClassVar[int]
    HELD_WRITES_FIELD_NUMBER: _ClassVar[int]
    RX_SLOTS_USED_FIELD_NUMBER: _ClassVar[int]
    STALLED_FIELD_NUMBER: _ClassVar[int]
    LINK_STATUS_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    FILTERED_FRAMES_FIELD_NUMBER: _ClassVar[int]
    VLANS_FIELD_NUMBER: _ClassVar[int]
    IS_TAGGED_FIELD_NUMBER: _ClassVar[int]
    MIRROR_FIELD_NUMBER: _ClassVar[int]
    network: str
    owner: str
    name: str
    mac_address: bytes
    addresses: _containers.RepeatedScalarFieldContainer[str]
    flags: int
    mtu_bytes: int
    opens: int
    link: str
    tx_frames: int
    tx_bytes: int
    rx_frames: int
    rx_bytes: int
    tx_drops: _containers.RepeatedCompositeFieldContainer[_types_pb2.DropCount]
    rx_drops: _containers.RepeatedCompositeFieldContainer[_types_pb2.DropCount]
    held_reads: int
    held_writes: int
    rx_slots_used: int
    stalled: bool
    link_status: Link
    filters: int
    filtered_frames: int
    vlans: _containers.RepeatedScalarFieldContainer[int]
    is_tagged: bool
    mirror: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, network: _Optional[str] = ..., owner: _Optional[str] = ..., name: _Optional[str] = ..., mac_address: _Optional[bytes] = ..., addresses: _Optional[_Iterable[str]] = ..., flags: _Optional[int] = ..., mtu_bytes: _Optional[int] = ..., opens: _Optional[int] = ..., link: _Optional[str] = ..., tx_frames: _Optional[int] = ..., tx_bytes: _Optional[int] = ..., rx_frames: _Optional[int] = ..., rx_bytes: _Optional[int] = ..., tx_drops: _Optional[_Iterable[_Union[_types_pb2.DropCount, _Mapping]]] = ..., rx_drops: _Optional[_Iterable[_Union[_types_pb2.DropCount, _Mapping]]] = ..., held_reads: _Optional[int] = ..., held_writes: _Optional[int] = ..., rx_slots_used: _Optional[int] = ..., stalled: _Optional[bool] = ..., link_status: _Optional[_Union[Link, _Mapping]] = ..., filters: _Optional[int] = ..., filtered_frames: _Optional[int] = ..., vlans: _Optional[_Iterable[int]] = ..., is_tagged: _Optional[bool] = ..., mirror: _Optional[_Iterable[str]] = ...) -> None: ...

class Link(_message.Message):
    __slots__ = ("kind", "peer", "state", "detail", "mtu_bytes", "offloads", "missed", "ups")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    MTU_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFLOADS_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    UPS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    peer: str
    state: LinkState
    detail: str
    mtu_bytes: int
    offloads: _containers.RepeatedScalarFieldContainer[str]
    missed: _containers.RepeatedCompositeFieldContainer[_types_pb2.DropCount]
    ups: int
    def __init__(self, kind: _Optional[str] = ..., peer: _Optional[str] = ..., state: _Optional[_Union[LinkState, str]] = ..., detail: _Optional[str] = ..., mtu_bytes: _Optional[int] = ..., offloads: _Optional[_Iterable[str]] = ..., missed: _Optional[_Iterable[_Union[_types_pb2.DropCount, _Mapping]]] = ..., ups: _Optional[int] = ...) -> None: ...

class ListFdbEntriesRequest(_message.Message):
    __slots__ = ("network",)
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    network: str
    def __init__(self, network: _Optional[str] = ...) -> None: ...

class ListFdbEntriesResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[FdbEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[FdbEntry, _Mapping]]] = ...) -> None: ...

class FdbEntry(_message.Message):
    __slots__ = ("network", "mac_address", "owner", "device", "is_static", "age_s", "vlan")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    MAC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    IS_STATIC_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    VLAN_FIELD_NUMBER: _ClassVar[int]
    network: str
    mac_address: bytes
    owner: str
    device: str
    is_static: bool
    age_s: float
    vlan: int
    def __init__(self, network: _Optional[str] = ..., mac_address: _Optional[bytes] = ..., owner: _Optional[str] = ..., device: _Optional[str] = ..., is_static: _Optional[bool] = ..., age_s: _Optional[float] = ..., vlan: _Optional[int] = ...) -> None: ...

class ListLeasesRequest(_message.Message):
    __slots__ = ("network",)
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    network: str
    def __init__(self, network: _Optional[str] = ...) -> None: ...

class ListLeasesResponse(_message.Message):
    __slots__ = ("leases",)
    LEASES_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[Lease]
    def __init__(self, leases: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("network", "address", "owner", "device", "mac_address", "kind", "in_use", "expires_in_s", "unused_for_s")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MAC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_S_FIELD_NUMBER: _ClassVar[int]
    UNUSED_FOR_S_FIELD_NUMBER: _ClassVar[int]
    network: str
    address: str
    owner: str
    device: str
    mac_address: bytes
    kind: LeaseKind
    in_use: bool
    expires_in_s: _wrappers_pb2.DoubleValue
    unused_for_s: _wrappers_pb2.DoubleValue
    def __init__(self, network: _Optional[str] = ..., address: _Optional[str] = ..., owner: _Optional[str] = ..., device: _Optional[str] = ..., mac_address: _Optional[bytes] = ..., kind: _Optional[_Union[LeaseKind, str]] = ..., in_use: _Optional[bool] = ..., expires_in_s: _Optional[_Union[_wrappers_pb2.DoubleValue, _Mapping]] = ..., unused_for_s: _Optional[_Union[_wrappers_pb2.DoubleValue, _Mapping]] = ...) -> None: ...

class ReleaseLeaseRequest(_message.Message):
    __slots__ = ("address", "network")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    address: str
    network: str
    def __init__(self, address: _Optional[str] = ..., network: _Optional[str] = ...) -> None: ...

class ReleaseLeaseResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("network", "recent", "only_recent", "owner", "device", "kind", "reason")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    RECENT_FIELD_NUMBER: _ClassVar[int]
    ONLY_RECENT_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    network: str
    recent: int
    only_recent: bool
    owner: str
    device: str
    kind: str
    reason: str
    def __init__(self, network: _Optional[str] = ..., recent: _Optional[int] = ..., only_recent: _Optional[bool] = ..., owner: _Optional[str] = ..., device: _Optional[str] = ..., kind: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ("event", "lost")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    event: Event
    lost: Lost
    def __init__(self, event: _Optional[_Union[Event, _Mapping]] = ..., lost: _Optional[_Union[Lost, _Mapping]] = ...) -> None: ...

class Lost(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: int
    def __init__(self, events: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("unix_time_s", "network", "kind", "owner", "device", "detail", "repetitions", "discard")
    UNIX_TIME_S_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    REPETITIONS_FIELD_NUMBER: _ClassVar[int]
    DISCARD_FIELD_NUMBER: _ClassVar[int]
    unix_time_s: float
    network: str
    kind: str
    owner: str
    device: str
    detail: str
    repetitions: int
    discard: Discard
    def __init__(self, unix_time_s: _Optional[float] = ..., network: _Optional[str] = ..., kind: _Optional[str] = ..., owner: _Optional[str] = ..., device: _Optional[str] = ..., detail: _Optional[str] = ..., repetitions: _Optional[int] = ..., discard: _Optional[_Union[Discard, _Mapping]] = ...) -> None: ...

class Discard(_message.Message):
    __slots__ = ("reason", "frame", "field", "found", "expected")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    reason: str
    frame: str
    field: str
    found: str
    expected: str
    def __init__(self, reason: _Optional[str] = ..., frame: _Optional[str] = ..., field: _Optional[str] = ..., found: _Optional[str] = ..., expected: _Optional[str] = ...) -> None: ...
