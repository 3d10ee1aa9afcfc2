"""The guards of one network's devices: made from policy and addresses, asked of every frame.

Joins the guard with who has which address. Every way in goes through :meth:`Screens.screen` before
anything is stored or learned: written vectors, the bursts of links, and whatever comes to be.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from hypervisor.batches import Suspects
from hypervisor.bindings import Bindings
from hypervisor.engine.drops import NOT_ADDRESSED, Tally
from hypervisor.engine.opens import Choice
from hypervisor.forwarding import Forwarder
from hypervisor.guard import (
    Discard,
    Guard,
    GuardPolicy,
    Prefix,
    Preset,
    Verdict,
    VlanGate,
)
from hypervisor.mach.claims import AddressTable, Subnet
from hypervisor.mach.devices import Device
from hypervisor.mach.probes import Probes
from hypervisor.nic import DiscardLog, Nic
from hypervisor.quotas import Quotas
from hypervisor.wire import ipv6
from hypervisor.wire.vlan import vid_of

#: What compiled code is handed for all pairs of devices together, in bytes; then all is forgotten
#: and made again when it is needed.
PACKED_BYTES: Final = 16 << 20


class Screens:
    """Makes guards and asks them. ``preset`` is the network's, for devices without their own."""

    def __init__(
        self,
        preset: Preset,
        subnets: Sequence[Subnet],
        addresses: AddressTable,
        discards: DiscardLog,
        forwarder: Forwarder,
        bindings: Bindings,
        quotas: Quotas,
        probes: Probes,
    ) -> None:
        self._probes = probes
        self.quotas = quotas
        self._bindings = bindings
        #: For devices whose policy says nothing of it.
        self.preset: Preset = preset
        self._prefixes = [
            subnet.network_address.packed[:8]
            for subnet in subnets
            if subnet.version == 6 and subnet.prefixlen == 64
        ]
        known = [subnet for subnet in subnets if subnet.version == 4]
        self._broadcasts = frozenset(each.broadcast_address.packed for each in known) or None
        self._addresses = addresses
        self._discards = discards
        self._forwarder = forwarder
        #: Guards of devices that are sent only what is for their addresses, by VLAN and MAC.
        self._addressed: dict[int, dict[bytes, Guard]] = {}
        #: Compiled code that finds the frames worth a look; None: all are.
        self.suspects: Suspects | None = None
        #: For each sender's guard, its packed templates: common ones, and toward addressed MACs.
        self._packed: dict[Guard, tuple[bytes, dict[bytes, bytes]]] = {}
        #: Bytes made since they were last forgotten: what is there is never more.
        self.packed_bytes = 0

    def addressed_in(self, vlan: int) -> dict[bytes, Guard]:
        """Return the guards of devices in a VLAN that are sent only what is for them, by MAC."""
        return self._addressed.setdefault(vlan, {})

    @property
    def any_addressed(self) -> bool:
        """Whether any device is sent only what is for its addresses."""
        return any(self._addressed.values())

    def narrow(
        self, choice: Choice, nics: Iterable[Nic], vlan: int, frame: bytes, offset: int
    ) -> Choice:
        """Take those for whom a group frame of Ethernet is not out of a choice.

        That is seldom anybody: a packet of IP for one host has no business in such a frame, which
        begins at ``offset``, without tag. ``nics`` are those of the network.
        """
        addressed = self.addressed_in(vlan)
        others = {
            nic
            for nic in nics
            if addressed.get(nic.device.mac) is nic.guard
            and nic.guard.judge_toward(frame, offset) is not None
        }
        if not others:
            return choice
        flooded = [each for each in choice.flooded if each.device not in others]
        blind = [tap for nic in others for port in nic.ports.values() for tap in port.taps]
        taps = [tap for tap in choice.taps if tap not in blind]
        if flooded or taps or choice.wide is not None:
            return replace(choice, flooded=flooded, taps=taps)
        return Choice(discard=NOT_ADDRESSED)

    def make_guard(self, device: Device) -> Guard:
        """Return the guard of a device as it is and for what it has now."""
        policy = device.policy
        if device.uplink:
            # No frame of an uplink has an address of its own: each must be looked at.
            return Guard(GuardPolicy(b"", trunk=True))
        addresses = [ipaddress.ip_address(text) for text in self._addresses.of_device(device)]
        made = GuardPolicy(
            mac=device.mac,
            preset=policy.guard or self.preset,
            trunk=policy.trunk,
            extra_macs=frozenset((*policy.extra_macs, *policy.static_macs)),
            ipv4=frozenset(each.packed for each in addresses if each.version == 4),
            ipv6=frozenset(each.packed for each in addresses if each.version == 6),
            implied=frozenset(ipv6.eui64(prefix, device.mac) for prefix in self._prefixes),
            prefixes=tuple(
                Prefix.of(net.network_address.packed, net.prefixlen) for net in policy.prefixes
            ),
            ethertypes=frozenset(policy.ethertypes),
            dhcp_server=policy.dhcp_server,
            router=policy.router,
            broadcasts=self._broadcasts,
        )
        return Guard(made)

    def refresh(self, nic: Nic) -> None:
        """Judge a device anew, after any change of what it is and has."""
        self.forget(nic)
        nic.guard = self.make_guard(nic.device)
        # A hub sends everything to all, and a promiscuous device wants everything.
        everything = self._forwarder.grants_promiscuous or nic.port.promiscuous
        if nic.guard.policy.addressed and not everything:
            for vlan in nic.ports:
                self.addressed_in(vlan)[nic.device.mac] = nic.guard
        self.quotas.assign(nic)

    def forget(self, nic: Nic) -> None:
        """Let a device be sent anything: it is gone, or judged anew."""
        mac = nic.guard.source
        self._packed.pop(nic.guard, None)
        for _, toward in self._packed.values():
            toward.pop(mac, None)
        for vlan in nic.ports:
            addressed = self.addressed_in(vlan)
            if addressed.get(mac) is nic.guard:
                del addressed[mac]

    def screen(
        self,
        nic: Nic,
        frames: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
        now: float,
    ) -> tuple[Sequence[bytes], Sequence[int] | None, Tally]:
        """Take out of a device's frames what its guard, or the receiver's, does not let pass.

        The Ethernet header begins at ``header_bytes`` of each, and 14 bytes follow; ``needs`` goes
        along. Returns frames, needs, and how many were discarded by reason. What was is reported.
        """
        kept = self._screen(nic, frames, header_bytes, needs, now)
        if self._probes.pending and not nic.device.uplink:
            for frame in kept[0]:
                self._probes.look(frame, header_bytes, nic.device, now)
        return kept

    def _screen(
        self,
        nic: Nic,
        frames: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
        now: float,
    ) -> tuple[Sequence[bytes], Sequence[int] | None, Tally]:
        discards = Tally()
        looked_at: Sequence[int] = range(len(frames))
        if nic.gate is not None:
            found = self._screen_vlans(nic, nic.gate, frames, header_bytes, now)
        else:
            addressed, ask = self.addressed_in(0), self._asker(nic, 0, now)
            if not nic.guard.full and not addressed and ask is None and not nic.quotas:
                return frames, needs, discards
            if nic.guard.full and self.suspects is not None:
                looked_at = self._suspects(
                    self.suspects, nic.guard, frames, header_bytes, addressed
                )
                if not looked_at and not nic.metered:
                    return frames, needs, discards
            found = _judge(nic.guard, frames, looked_at, header_bytes, addressed, ask)
        if nic.quotas:
            self.quotas.limit(nic, frames, looked_at, header_bytes, found, now)
        if not found:
            return frames, needs, discards
        for index, verdict in found.items():
            discards.count(verdict.reason)
            frame = frames[index]
            self._discards.note(nic.device, verdict.reason, 1, now, frame, header_bytes, verdict)
        kept = [index for index in range(len(frames)) if index not in found]
        return (
            [frames[index] for index in kept],
            None if needs is None else [needs[index] for index in kept],
            discards,
        )

    def _screen_vlans(
        self, nic: Nic, gate: VlanGate, frames: Sequence[bytes], header_bytes: int, now: float
    ) -> dict[int, Discard]:
        """Judge tags first, and what is behind the allowed ones as if they were not there."""
        found = gate.screen(frames, header_bytes)
        by_vlan: dict[int, list[int]] = {}
        for index, frame in enumerate(frames):
            if index not in found:
                vlan = gate.access or vid_of(frame[header_bytes : header_bytes + 16])
                by_vlan.setdefault(vlan, []).append(index)
        for vlan, places in by_vlan.items():
            bare = [gate.bare(frames[index], header_bytes) for index in places]
            addressed, ask = self.addressed_in(vlan), self._asker(nic, vlan, now)
            for place, verdict in nic.guard.screen(bare, header_bytes, addressed, ask):
                found[places[place]] = verdict
        return found

    def _asker(self, nic: Nic, vlan: int, now: float) -> Callable[[bytes, int], Verdict] | None:
        """Return who looks at DHCP, where the guard looks into frames, or a server speaks."""
        if not nic.guard.full and not nic.device.policy.dhcp_server:
            return None
        return self._bindings.asker(nic.device, vlan, now)

    def _suspects(
        self,
        ask: Suspects,
        guard: Guard,
        frames: Sequence[bytes],
        header_bytes: int,
        addressed: dict[bytes, Guard],
    ) -> list[int]:
        """Return the places of the frames that ``guard`` has to look at."""
        packed = self._packed.get(guard)
        if packed is None:
            packed = (self._pack(guard, None), {})
            self._packed[guard] = packed
        common, toward = packed
        suspects = ask(frames, header_bytes, common, addressed, toward)
        for index in suspects:
            mac = frames[index][header_bytes : header_bytes + 6]
            receiver = addressed.get(mac)
            if receiver is not None and mac not in toward:
                toward[mac] = self._pack(guard, receiver)
        return suspects

    def _pack(self, guard: Guard, receiver: Guard | None) -> bytes:
        """Return what a full guard finds common toward a receiver, for compiled code."""
        forms = guard.forms(receiver)
        packed = b"" if forms is None else forms.packed()
        self.packed_bytes += len(packed)
        if self.packed_bytes > PACKED_BYTES:
            self._packed.clear()
            self.packed_bytes = len(packed)
        return packed


def _judge(
    guard: Guard,
    frames: Sequence[bytes],
    looked_at: Sequence[int],
    header_bytes: int,
    addressed: dict[bytes, Guard],
    ask: Callable[[bytes, int], Verdict] | None,
) -> dict[int, Discard]:
    """Return the verdict on each frame, of those ``looked_at``, that does not pass."""
    if len(looked_at) == len(frames):
        return dict(guard.screen(frames, header_bytes, addressed, ask))
    some = [frames[index] for index in looked_at]
    verdicts = guard.screen(some, header_bytes, addressed, ask)
    return {looked_at[place]: verdict for place, verdict in verdicts}
