"""Values of the core as messages of the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.wrappers_pb2 import DoubleValue
from machdev.v1 import network_pb2, ports_pb2, types_pb2

from hypervisor.infos import (
    DeadName,
    DeviceInfo,
    DeviceState,
    FdbInfo,
    FrameArrived,
    LeaseInfo,
    LinkInfo,
    LinkState,
    Message,
    Missing,
    NetMessage,
    NetworkInfo,
    NoSenders,
    Notification,
    PortInfo,
)
from hypervisor.requests import Event, EventKind, Role

ROLES: Mapping[int, Role] = {
    types_pb2.OPEN_ROLE_UNSPECIFIED: Role.PLAIN,
    types_pb2.OPEN_ROLE_STACK: Role.STACK,
    types_pb2.OPEN_ROLE_MONITOR: Role.MONITOR,
}

_LEASE_KINDS = {
    "policy": network_pb2.LEASE_KIND_POLICY,
    "claimed": network_pb2.LEASE_KIND_CLAIMED,
    "dhcp": network_pb2.LEASE_KIND_DHCP,
}
_LINK_STATES: Mapping[LinkState, network_pb2.LinkState] = {
    LinkState.UP: network_pb2.LINK_STATE_UP,
    LinkState.DOWN: network_pb2.LINK_STATE_DOWN,
    LinkState.WAITING: network_pb2.LINK_STATE_WAITING,
}

NOTIFICATIONS: Mapping[int, Notification] = {
    ports_pb2.NOTIFICATION_KIND_DEAD_NAME: Notification.DEAD_NAME,
    ports_pb2.NOTIFICATION_KIND_NO_SENDERS: Notification.NO_SENDERS,
    ports_pb2.NOTIFICATION_KIND_FRAME_ARRIVED: Notification.FRAME_ARRIVED,
    ports_pb2.NOTIFICATION_KIND_DEVICE_STATE: Notification.DEVICE_STATE,
}


def drops(counts: Mapping[str, int]) -> Sequence[types_pb2.DropCount]:
    """Return drop counters, in the order of their reasons' names."""
    if not counts:
        return ()
    return [types_pb2.DropCount(reason=name, copies=counts[name]) for name in sorted(counts)]


def network(info: NetworkInfo) -> network_pb2.Network:
    """Return one network's state."""
    return network_pb2.Network(
        name=info.name,
        mode=info.mode,
        guard=info.guard,
        mtu_bytes=info.mtu,
        subnets=info.subnets,
        devices=info.devices,
        opens=info.opens,
        tasks=info.tasks,
        pool_frames=info.pool_frames,
        pool_free_frames=info.pool_free_frames,
        pool_bytes=info.pool_bytes,
        pool_free_bytes=info.pool_free_bytes,
        held_reads=info.held_reads,
        held_writes=info.held_writes,
        frames=info.frames,
        bytes=info.bytes,
        copies_delivered=info.copies_delivered,
        drops=drops(info.drops),
        fdb_entries=info.fdb_entries,
        fdb_capacity=info.fdb_capacity,
    )


def device(info: DeviceInfo) -> network_pb2.Device:
    """Return one device's state."""
    return network_pb2.Device(
        network=info.network,
        owner=info.owner,
        name=info.name,
        mac_address=info.mac,
        addresses=info.addresses,
        flags=info.flags,
        mtu_bytes=info.mtu,
        opens=info.opens,
        link=info.link,
        tx_frames=info.tx_frames,
        tx_bytes=info.tx_bytes,
        rx_frames=info.rx_frames,
        rx_bytes=info.rx_bytes,
        tx_drops=drops(info.tx_drops),
        rx_drops=drops(info.rx_drops),
        held_reads=info.held_reads,
        held_writes=info.held_writes,
        rx_slots_used=info.rx_slots_used,
        stalled=info.stalled,
        filters=info.filters,
        filtered_frames=info.filtered_frames,
        vlans=info.vlans,
        is_tagged=info.is_tagged,
        mirror=info.mirror,
        link_status=None if info.link_info is None else link(info.link_info),
    )


def link(info: LinkInfo) -> network_pb2.Link:
    """Return what is known of a link."""
    return network_pb2.Link(
        kind=info.kind,
        peer=info.peer,
        state=_LINK_STATES[info.state],
        detail=info.detail,
        mtu_bytes=info.mtu,
        offloads=info.offloads,
        missed=drops(info.missed),
        ups=info.ups,
    )


def fdb_entry(network_name: str, info: FdbInfo) -> network_pb2.FdbEntry:
    """Return one forwarding entry of the network ``network_name``."""
    return network_pb2.FdbEntry(
        network=network_name,
        mac_address=info.mac,
        owner=info.owner,
        device=info.device,
        is_static=info.age_s is None,
        age_s=info.age_s or 0.0,
        vlan=info.vlan,
    )


def lease(info: LeaseInfo) -> network_pb2.Lease:
    """Return an address and whose it is."""
    return network_pb2.Lease(
        network=info.network,
        address=info.address,
        owner=info.owner,
        device=info.device,
        mac_address=info.mac,
        kind=_LEASE_KINDS[info.kind],
        in_use=info.in_use,
        expires_in_s=_double(info.expires_in_s),
        unused_for_s=_double(info.unused_for_s),
    )


def _double(number: float | None) -> DoubleValue | None:
    return None if number is None else DoubleValue(value=number)


def event(unix_time_s: float, happened: Event) -> network_pb2.WatchEventsResponse:
    """Return one event as a message of the watch stream."""
    return network_pb2.WatchEventsResponse(
        event=network_pb2.Event(
            unix_time_s=unix_time_s,
            network=happened.network,
            kind=happened.kind,
            owner=happened.owner,
            device=happened.device,
            detail=happened.detail,
            repetitions=happened.repetitions,
            discard=_discard(happened),
        )
    )


def _discard(happened: Event) -> network_pb2.Discard | None:
    if happened.kind != EventKind.DISCARD:
        return None
    keys = ("reason", "frame", "field", "found", "expected")
    return network_pb2.Discard(**{key: str(happened.data.get(key, "")) for key in keys})


def lost(events: int) -> network_pb2.WatchEventsResponse:
    """Return the message that stands where ``events`` events are missing."""
    return network_pb2.WatchEventsResponse(lost=network_pb2.Lost(events=events))


def port_status(info: PortInfo) -> ports_pb2.PortGetStatusResponse:
    """Return a receive port's state."""
    return ports_pb2.PortGetStatusResponse(
        qlimit=info.qlimit,
        queued=info.queued,
        delivered=info.delivered,
        drops=drops(info.drops),
        senders=info.senders,
        make_sends=info.make_sends,
        port_set=info.port_set,
    )


def received(messages: Sequence[Message]) -> ports_pb2.PortReceiveResponse:
    """Return messages of receive ports, in their order."""
    response = ports_pb2.PortReceiveResponse()
    for message in messages:
        told = response.messages.add(receive_port=message.receive_port)
        if isinstance(message, NetMessage):
            told.net_rcv_msg.header = message.header
            told.net_rcv_msg.packet = message.packet
        else:
            _tell(told, message)
    return response


def _tell(told: ports_pb2.PortMessage, message: Message) -> None:
    match message:
        case DeadName():
            told.dead_name.port = message.name
        case NoSenders():
            told.no_senders.port = message.name
            told.no_senders.make_sends = message.make_sends
        case FrameArrived():
            told.frame_arrived.device_port = message.device_port
        case DeviceState():
            told.device_state.device_port = message.device_port
            told.device_state.flags = message.flags
            told.device_state.mac_address = message.mac
            told.device_state.mtu_bytes = message.mtu
            told.device_state.addresses.extend(message.addresses)
        case Missing():
            told.lost.messages = message.messages
