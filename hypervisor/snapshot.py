"""Pictures of a network at one moment, as plain values for people and machines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from hypervisor.engine.drops import Tally
from hypervisor.engine.engine import Engine
from hypervisor.forwarding.base import Entry
from hypervisor.infos import DeviceInfo, FdbInfo, LeaseInfo, LinkInfo, NetworkInfo
from hypervisor.mach.claims import AddressTable
from hypervisor.mach.devices import Device
from hypervisor.mach.leases import Lease
from hypervisor.nic import LinkRecord, Nic
from hypervisor.wire.virtio_net import Offload


def device_info(network: str, mtu: int, nic: Nic, addresses: tuple[str, ...]) -> DeviceInfo:
    """Return the state and the counters of one device, all opens of it taken together."""
    opens = [handle.open for handle in nic.handles]
    tx_drops, rx_drops = Tally(nic.tx_drops), Tally(nic.rx_drops)
    for each in opens:
        tx_drops.merge(each.sent_drops)
        rx_drops.merge(each.rx_drops)
    return DeviceInfo(
        network=network,
        owner=nic.device.owner,
        name=nic.device.name,
        mac=nic.device.mac,
        addresses=addresses,
        flags=nic.device.flags,
        mtu=nic.device.mtu(mtu),
        opens=len(opens),
        link=next((handle.link for handle in nic.handles if handle.link), ""),
        tx_frames=nic.retired[0] + sum(each.sent_frames for each in opens),
        tx_bytes=nic.retired[1] + sum(each.sent_bytes for each in opens),
        rx_frames=nic.retired[2] + sum(each.delivered_frames for each in opens),
        rx_bytes=nic.retired[3] + sum(each.delivered_bytes for each in opens),
        tx_drops=tx_drops,
        rx_drops=rx_drops,
        held_reads=sum(len(each.reads) for each in opens),
        held_writes=sum(len(each.writes) for each in opens),
        rx_slots_used=sum(each.rx_used for each in opens),
        stalled=any(each.stalled for each in opens),
        filters=len(nic.filters),
        filtered_frames=nic.filtered_frames,
        link_info=next((link_info(each.record) for each in nic.handles if each.record), None),
        vlans=tuple(vid for vid in nic.ports if vid),
        is_tagged=nic.port.tagged,
        mirror=nic.device.policy.mirror,
    )


def link_info(record: LinkRecord) -> LinkInfo:
    """Return what is known of a link."""
    return LinkInfo(
        kind=record.kind,
        peer=record.peer,
        state=record.state,
        detail=record.detail,
        mtu=record.mtu,
        offloads=tuple(str(each.name).lower() for each in Offload if each & record.accepts == each),
        missed=Tally(record.missed),
        ups=record.ups,
    )


def network_info(
    name: str,
    mode: str,
    guard: str,
    mtu: int,
    subnets: Iterable[object],
    counts: tuple[int, int, int],
    engine: Engine,
    fdb: tuple[int, int],
) -> NetworkInfo:
    """Return one network's sizes and counters; ``counts`` are devices, opens, tasks, ``fdb``
    its entries and capacity.
    """
    drops = Tally(engine.drops)
    drops.merge(engine.discards)
    drops.merge(engine.mail.drops)
    return NetworkInfo(
        name=name,
        mode=mode,
        guard=guard,
        mtu=mtu,
        subnets=tuple(str(each) for each in subnets),
        devices=counts[0],
        opens=counts[1],
        tasks=counts[2],
        pool_frames=engine.pool.max_frames,
        pool_free_frames=engine.pool.free_frames,
        pool_bytes=engine.pool.max_bytes,
        pool_free_bytes=engine.pool.free_bytes,
        held_reads=engine.held_reads,
        held_writes=engine.held_writes,
        frames=engine.frames_switched,
        bytes=engine.bytes_switched,
        copies_delivered=engine.copies_delivered + engine.mail.delivered,
        drops=drops,
        fdb_entries=fdb[0],
        fdb_capacity=fdb[1],
    )


def lease_infos(
    network: str, table: AddressTable, find: Callable[[str, str], Device | None], now: float
) -> list[LeaseInfo]:
    """Return who has which address, by address; ``find`` returns a device that is open."""
    infos = [(lease.address, lease_info(network, lease, now)) for lease in table.leases(now)]
    for address, policy in table.assigned():
        device = find(policy.owner, policy.name)
        mac = device.mac if device is not None else policy.mac or b""
        text, in_use = str(address), device is not None
        assigned = LeaseInfo(
            network, text, policy.owner, policy.name, mac, "policy", in_use, None, None
        )
        infos.append((address, assigned))
    infos.sort(key=lambda each: (each[0].version, int(each[0])))
    return [info for _, info in infos]


def lease_info(network: str, lease: Lease, now: float) -> LeaseInfo:
    """Return one lease at one moment."""
    ends, in_use = lease.ends(), lease.device is not None
    return LeaseInfo(
        network=network,
        address=str(lease.address),
        owner=lease.owner,
        device=lease.name,
        mac=lease.mac,
        kind=lease.kind,
        in_use=in_use,
        expires_in_s=None if math.isinf(ends) else ends - now,
        unused_for_s=None if in_use else max(0.0, now - lease.last_used),
    )


def fdb_info(entries: Iterable[Entry], visible: Callable[[str], bool]) -> list[FdbInfo]:
    """Return the forwarding entries whose owner is ``visible``."""
    return [
        FdbInfo(each.mac, device.owner, device.name, each.age_s, each.port.vlan)
        for each in entries
        if visible((device := each.port.device).owner)
    ]
