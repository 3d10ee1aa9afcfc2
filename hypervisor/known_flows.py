"""What a network knows of flows: which there are now, and what they have carried or lost.

What a flow is, and when it is forgotten, is said in :mod:`hypervisor.flows`. Here is when there is
one at all: each condition is something that only the long way can see to.
"""

from __future__ import annotations

from hypervisor.flows import MAX_FLOWS, Flow, FlowTable
from hypervisor.forwarding import Port
from hypervisor.nic import Handle, Nic
from hypervisor.rooms import Rooms


class KnownFlows(Rooms):
    """The rooms of a network, with its known flows."""

    def flows_of(self, handle: Handle) -> FlowTable:
        """Return the table of a link's known flows; it is emptied whenever anything changes."""
        return self.flows.setdefault(handle.open, FlowTable())

    def learn_flow(self, handle: Handle, addresses: bytes, now: float) -> Flow | None:
        """Find the flow of a link's frames that begin with these 12 ``addresses``.

        There is one from the device's own address, or from one that was seen behind it a moment
        ago, to where the other address is, if both have links that may be in flows (all but TAPs
        without offload headers) and there is one open there. It is then in :meth:`flows_of`.
        None: call :meth:`ingress`.
        """
        sender, nic = handle.open, handle.nic
        flows = self.flows_of(handle)
        port, seen_from, seen_at = self._only_port(nic, addresses, now)
        if (
            not sender.in_flows
            or not nic.device.up
            or port is None
            or port is nic.port
            or len(flows) >= MAX_FLOWS
            or len(port.receivers) != 1
            or not port.receivers[0].in_flows
            or port.taps
            or sender.tap is not None
        ):
            return None
        guard, addressed = nic.guard, self.screens.addressed_in(nic.port.vlan)
        to: Nic = port.receivers[0].device
        if self.probes.pending and self.probes.is_for(to.device):
            return None  # somebody may answer a probe
        full = guard if guard.full else None
        forms = guard.forms(addressed.get(addresses[:6]), untagged=nic.gate is not None)
        flow = Flow(sender, port.receivers[0], forms, full, addressed)
        flows[addresses] = flow
        self.leaning.note(sender, seen_from, seen_at, now)
        return flow

    def _only_port(
        self, nic: Nic, addresses: bytes, now: float
    ) -> tuple[Port | None, bytes | None, bytes | None]:
        """Return who alone gets what a NIC sends with these addresses, as long as nothing changes.

        Also the source, and the destination, if it was learned where they are. No port: there is
        nobody, or the source has not been seen lately.
        """
        to, source = addresses[:6], addresses[6:]
        seen_from = seen_at = None
        if source != nic.guard.source:
            if not nic.guard.lenient or not nic.forwarder.has_lately_learned(nic.port, source, now):
                return None, None, None
            seen_from = source
        port = nic.table.get(to)
        if port is None and nic.has_table:
            port, seen_at = nic.forwarder.find_learned(nic.port, to, now), to
        return port, seen_from, seen_at

    def express_room(self, handle: Handle) -> tuple[int, int]:
        """Return how many frames and bytes of known flows the open's RX slots take now.

        Whoever puts some there calls :meth:`stored` before anything else.
        """
        return self.engine.express_room(handle.open)

    def stored(self, flow: Flow, frames: int, size_bytes: int) -> None:
        """Frames of a flow, offload headers included in their bytes, wait at a link's sink."""
        self.engine.store_express(flow.sender, flow.receiver, frames, size_bytes)

    def lost(self, flow: Flow, size_bytes: int, reason: str, frames: int = 1) -> None:
        """A flow's ``frames`` were not taken by the direct link that they were written to."""
        self.engine.count_direct(flow.sender, flow.receiver, frames, size_bytes)
        self.engine.count_lost(flow.receiver, {reason: frames}, size_bytes)
