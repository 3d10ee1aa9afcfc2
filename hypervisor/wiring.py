"""Which NIC is on which VLAN of a network, and which is shown what others send and get.

Theory of operation
    Each VLAN is a forwarder of its own, and so is the network's untagged part (VLAN 0 here): what
    is learned, flooded or known in one is nothing in another. A NIC has a port in each VLAN that
    policy puts it into, one without a tag or several with one; see :mod:`hypervisor.guard.vlan`.

    A *mirror* is a device that policy gives copies of what others send ("in", into the network),
    of what they are given ("out"), or of both. It gets them as flooded frames come, in its own RX
    slots: it holds nobody, and what does not fit is its own loss. A copy is made of what passed
    the guard, once for each frame and mirror, in the form in which it was sent; copies are
    mirrored no further.

Whom nobody mirrors pays nothing: :attr:`Nic.table` is a short cut that mirrored NICs are not in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from hypervisor.engine.drops import UNADDRESSED
from hypervisor.engine.opens import Choice, Open, Wide
from hypervisor.forwarding import Forwarder, Learning, Port
from hypervisor.forwarding.base import Entry, Stance
from hypervisor.mach.devices import Device
from hypervisor.nic import Nic

#: Stands for every device and uplink in what a mirror is shown.
EVERYBODY: Final = "*"
_NO_TABLE: Final[dict[bytes, Port]] = {}


def make_ports(device: Device, learns: bool) -> dict[int, Port]:
    """Return the ports that policy gives a device, by VLAN; 0 is the untagged part."""
    policy = device.policy
    stance = stance_of(device)
    learning = Learning(policy.learn_limit, policy.sticky, policy.static_macs)
    return {
        vid: Port(
            device,
            device.mac,
            learns=learns,
            uplink=device.uplink,
            vlan=vid,
            tagged=bool(policy.vlans),
            learning=learning,
            stance=stance,
        )
        for vid in policy.vlans or (policy.vlan,)
    }


def stance_of(device: Device) -> Stance:
    """Return whom a device meets: a router is a way out, isolated or not."""
    if device.policy.router:
        return Stance.WAY_OUT
    return Stance.ISOLATED if device.policy.isolated else Stance.PLAIN


class Wiring:
    """The forwarders of one network, made by ``make`` when their VLAN gets its first port."""

    def __init__(self, make: Callable[[], Forwarder]) -> None:
        self._make = make
        #: The forwarder of those without VLAN; the others are of the same kind.
        self.untagged = make()
        self._forwarders: dict[int, Forwarder] = {0: self.untagged}
        self._nics: dict[Nic, None] = {}
        #: Whether anything is mirrored: if not, no choice needs :meth:`mirrored`.
        self.mirrors = False

    def plug(self, nic: Nic) -> None:
        """Connect a NIC to its VLANs."""
        for vid, port in nic.ports.items():
            forwarder = self._forwarders.get(vid)
            if forwarder is None:
                forwarder = self._forwarders[vid] = self._make()
            forwarder.add(port)
        nic.forwarder = self._forwarders[nic.port.vlan]
        nic.forwarders = {vid: self._forwarders[vid] for vid in nic.ports}
        self._nics[nic] = None
        self._shorten(nic)
        self._aim()

    def unplug(self, nic: Nic) -> None:
        """Disconnect a NIC; a VLAN without ports is no more."""
        del self._nics[nic]
        for vid, port in nic.ports.items():
            self._forwarders[vid].remove(port)
            if vid and not any(vid in other.ports for other in self._nics):
                del self._forwarders[vid]
        self._aim()

    def changed(self, nic: Nic) -> None:
        """A NIC has another address, or other flags."""
        for vid, port in nic.ports.items():
            self._forwarders[vid].changed(port)

    def forget(self, nic: Nic) -> None:
        """What was learned behind a NIC leads nowhere now."""
        for vid, port in nic.ports.items():
            self._forwarders[vid].forget(port)

    def entries(self, now: float) -> Iterator[Entry]:
        """Yield the forwarding tables of all VLANs."""
        for _, forwarder in sorted(self._forwarders.items()):
            yield from forwarder.entries(now)

    @property
    def capacity(self) -> int:
        """The most addresses that can be learned, in all VLANs together."""
        return sum(forwarder.capacity for forwarder in self._forwarders.values())

    # --- mirrors ------------------------------------------------------------------------------

    def _aim(self) -> None:
        """Find anew who is mirrored to whom, after a NIC came or went."""
        mirrors = [nic for nic in self._nics if nic.device.policy.mirror]
        if not mirrors and not self.mirrors:
            return
        self.mirrors = bool(mirrors)
        for nic in self._nics:
            seen = [each for each in mirrors if each is not nic and _shows(each, nic)]
            nic.mirrors_in = tuple(
                each for each in seen if each.device.policy.mirror_direction != "out"
            )
            nic.mirrors_out = tuple(
                each for each in seen if each.device.policy.mirror_direction != "in"
            )
            for port in nic.ports.values():
                port.mirrored = bool(nic.mirrors_out)
            self._shorten(nic)
            self.changed(nic)

    def _shorten(self, nic: Nic) -> None:
        """Give a NIC the table that is all there is to ask for what it sends, or an empty one."""
        nic.has_table = not (nic.mirrors_in or nic.port.tagged)
        nic.table = nic.forwarder.table_for(nic.port) if nic.has_table else _NO_TABLE

    def mirrored(self, sender: Nic, choice: Choice) -> Choice:
        """Add the mirrors of a sender and of those whom it sends to to a choice."""
        if choice.discard is not None and choice.discard not in UNADDRESSED:
            return choice
        chosen: list[Open] = [*choice.holding, *choice.flooded]
        wide = choice.wide or Wide()
        if wide.other is not None:
            chosen += [*wide.other.holding, *wide.other.flooded]
        mirrors = dict.fromkeys(sender.mirrors_in)
        for each in chosen:
            receiver: Nic = each.device
            mirrors.update(dict.fromkeys(receiver.mirrors_out))
        mirrors.pop(sender, None)
        shown = [each for nic in mirrors for each in nic.port.receivers if each not in chosen]
        return replace(choice, wide=replace(wide, mirrors=shown)) if shown else choice


def _shows(mirror: Nic, nic: Nic) -> bool:
    """Tell whether policy shows a NIC's frames to a mirror."""
    sources = mirror.device.policy.mirror
    return EVERYBODY in sources or f"{nic.device.owner}/{nic.device.name}" in sources
