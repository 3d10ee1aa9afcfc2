"""A new policy for a network that runs: at once for what it concerns; nothing else is touched.

Theory of operation. Each open device is asked about again, by whoever opened it. Where the answer
is the old one and its addresses are too, nothing happens to it. Where it is not, the device gets
its new place (whom it meets, what is learned behind it), its new guard and new limits in one step,
between two frames. Its opens, their slots, held requests and links stay as they are.

What cannot change under an open device waits until it is opened anew, and is said: its MAC address,
which its stack knows by heart, and whether its link is trusted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from hypervisor.guard import Preset
from hypervisor.mach.devices import IFF_PROMISC
from hypervisor.mach.policy import DevicePolicy, Rule
from hypervisor.nic import Nic
from hypervisor.requests import EventKind
from hypervisor.rooms import Rooms, head_bytes
from hypervisor.wiring import make_ports

#: Settings that an open device keeps until it is opened anew.
_LATER = {"mac": "its MAC address", "trusted": "whether its TAP is trusted"}


def change_policy(rooms: Rooms, rules: Iterable[Rule], preset: Preset) -> list[str]:
    """Put rules and the network's guard in force; returns what changed, a line for each device."""
    devices, addresses = rooms.devices, rooms.addresses
    before = {nic: addresses.of_device(nic.device) for nic in rooms.nics.values()}
    changes = []
    was, rooms.screens.preset = rooms.screens.preset, preset
    if preset != was:
        changes.append(f"{rooms.name}: guard is {preset}, was {was}")
    devices.follow(devices.book.with_rules(rules))
    for address, owner in addresses.assign(devices.book.named()):
        changes.append(f"{rooms.name}: {address}, which {owner} had claimed, is assigned by policy")
    for nic in before:
        # Owners' limits may be others though none of their devices is concerned.
        rooms.screens.quotas.assign(nic)
        owned = devices.owner_policy(nic.device.who)
        rooms.engine.shares.limit(nic.device.owner, owned.pool_percent)
    for nic, had in before.items():
        old, new = nic.device.policy, devices.policy(nic.device.who, nic.device.name)
        moved = addresses.of_device(nic.device) != had
        if new == old and not moved and (preset == was or new.guard is not None):
            continue
        _change(rooms, nic, new)
        words = "; ".join(_differences(old, new))
        if moved:
            now_has = ", ".join(addresses.of_device(nic.device)) or "none"
            words = "; ".join(filter(None, (words, f"addresses: {now_has}")))
            rooms.state_changed(nic)
        if words:
            rooms.event(EventKind.POLICY_CHANGED, nic.device, words)
            changes.append(f"{rooms.name}: {nic.device.name} of {nic.device.owner}: {words}")
    return changes


def _change(rooms: Rooms, nic: Nic, policy: DevicePolicy) -> None:
    """Give one device its new policy, wherever it takes effect."""
    device, old = nic.device, nic.device.policy
    rooms.devices.change(device, policy)
    guard = rooms.screens.make_guard(device)
    free = guard.lenient or policy.promisc or nic.forwarder.grants_promiscuous
    if device.flags & IFF_PROMISC and not free:
        device.flags &= ~IFF_PROMISC
        rooms.state_changed(nic)
    if dataclasses.replace(policy, guard=old.guard) != old or guard.lenient != nic.guard.lenient:
        rooms.screens.forget(nic)
        rooms.wiring.unplug(nic)
        nic.place(make_ports(device, learns=guard.lenient))
        for port in nic.ports.values():
            port.promiscuous = bool(device.flags & IFF_PROMISC)
        rooms.wiring.plug(nic)
        for handle in nic.handles:
            handle.open.head_bytes = head_bytes(nic)
        nic.refresh()
    rooms.refresh_guard(nic)


def _differences(old: DevicePolicy, new: DevicePolicy) -> Iterator[str]:
    for each in dataclasses.fields(DevicePolicy):
        was, value = getattr(old, each.name), getattr(new, each.name)
        if was != value and each.name != "addresses":
            what = _LATER.get(each.name)
            if what is not None:
                yield f"{what} changes when it is opened anew"
            else:
                yield f"{each.name} is {_shown(value)}, was {_shown(was)}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.hex(":")
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "none"
    return "not said" if value is None else str(value)
