"""The single writer: owns every network, feeds it requests and frames, drains what it says.

Everything runs in one thread, in the loop that made the runtime. The core is called with the
time; afterwards :meth:`Runtime._settle` looks at what it left: completions and events go to
whoever is bound, links get their frames, timers are armed. Blocking work on descriptors
(adopting, closing) is done by helper threads.

The service knows this class by four verbs (bind, submit, cancel, adopt) and plain messages, so
that it could be in another thread or process.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import hypervisor
from hypervisor.engine.drops import LINK_GONE
from hypervisor.engine.opens import Open
from hypervisor.errors import DeviceError, NoMemory
from hypervisor.guard import Preset
from hypervisor.infos import MemberInfo
from hypervisor.interconnect import Interconnect
from hypervisor.lease_book import LeaseBook
from hypervisor.links.base import Link, PatientLink
from hypervisor.links.carrier import Carrier
from hypervisor.links.data_path import DataPath
from hypervisor.links.lent_tap import LentTap
from hypervisor.links.outlet import Outlet
from hypervisor.links.patient import PatientCarrier
from hypervisor.links.reader import Host, Reader
from hypervisor.links.shortage import Shortage
from hypervisor.mach.leases import Address
from hypervisor.mach.policy import Rule
from hypervisor.network import Network
from hypervisor.nic import Handle
from hypervisor.requests import Completion, Event, Request
from hypervisor.store import LeaseStore

OnCompletions = Callable[[list[Completion]], None]
OnEvents = Callable[[list[tuple[float, Event]]], None]

#: How often links are looked at that have nothing to say, in seconds.
LOOK_S = 1.0
#: How often leases in use are noted on disk, in seconds.
TOUCH_S = 600.0
#: Threads for closing and adopting descriptors.
HELPERS = 4


class _Hosted:
    """A network with its links and its timer."""

    __slots__ = ("carriers", "network", "on_members", "outlets", "roster", "timer", "timer_at")

    def __init__(self, network: Network) -> None:
        self.network = network
        self.carriers: dict[Open, Reader] = {}
        self.outlets: dict[Open, Outlet] = {}
        #: Who is told that the devices or their addresses are not what they were.
        self.on_members: Callable[[], None] = lambda: None
        self.roster = network.roster
        self.timer: asyncio.TimerHandle | None = None
        self.timer_at: float | None = None

    def carrier_of_flow(self, receiver: Open) -> Reader:
        """Return the carrier of an open that flows lead to."""
        return self.carriers[receiver]


class Runtime:
    """Runs networks. Make it inside a running event loop; see the module.

    ``clock`` is monotonic seconds, ``wall`` Unix time. Leases are kept in ``leases`` if given;
    ``path`` makes burst loops and sinks.
    """

    server_version = hypervisor.__version__

    def __init__(
        self,
        networks: Iterable[Network],
        *,
        leases: LeaseStore | None = None,
        path: DataPath | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._wall = wall
        self._leases = LeaseBook(leases, clock, wall)
        self._path = path or DataPath()
        self._shortage = Shortage(self._path)
        self._hosted = {network.name: _Hosted(network) for network in networks}
        self._interconnect = Interconnect(hosted.network for hosted in self._hosted.values())
        for hosted in self._hosted.values():
            hosted.network.use(self._path.batches)
        self._own = f"uid:{os.geteuid()}"
        self._helpers = ThreadPoolExecutor(HELPERS, thread_name_prefix="descriptors")
        self._on_completions: OnCompletions = _ignore
        self._on_events: OnEvents = _ignore
        self._stopped = False
        self._leases.restore(hosted.network for hosted in self._hosted.values())
        for hosted in self._hosted.values():
            self._settle(hosted)
        self._touch_timer = self._loop.call_later(TOUCH_S, self._touch_leases)
        self._look_timer = self._loop.call_later(LOOK_S, self._look_at_links)

    @property
    def data_path(self) -> str:
        """What moves the frames of lent TAPs: "compiled", or "Python" and why it is not that."""
        return str(self._path)

    @property
    def writes_left_behind(self) -> int:
        """How many writes to strangers' TAPs did not come to an end, so that others went on."""
        return self._path.left_behind

    def is_short_of_processors(self) -> bool:
        """Whether known flows are carried, and this thread has had to wait for a processor."""
        return self._shortage.there_is()

    @property
    def network_names(self) -> tuple[str, ...]:
        """The names of the networks, in the order they were given."""
        return tuple(self._hosted)

    def bind(self, on_completions: OnCompletions, on_events: OnEvents) -> None:
        """Say who is told of completions, and of events (each with its Unix time)."""
        self._on_completions = on_completions
        self._on_events = on_events

    # --- requests -----------------------------------------------------------------------------

    def submit(self, network: str, request: Request) -> None:
        """Take a request; exactly one completion follows, maybe before this returns."""
        hosted = self._hosted[network]
        hosted.network.submit(request, self._clock())
        self._settle(hosted)

    def submit_all(self, network: str, requests: Iterable[Request]) -> None:
        """Take requests in their order, as submit() takes one, and settle once."""
        hosted = self._hosted[network]
        now, passing = self._clock(), hosted.network.engine.passing
        for request in requests:
            hosted.network.submit(request, now)
            if passing:
                # What goes straight to a link is written before anything else is asked.
                self._settle(hosted)
        self._settle(hosted)

    def cancel(self, network: str, request_id: int) -> bool:
        """Cancel a held request: no completion follows. False, and nothing else, if it is not."""
        hosted = self._hosted[network]
        cancelled = hosted.network.cancel(request_id, self._clock())
        self._settle(hosted)
        return cancelled

    def longest_frame(self, network: str) -> int:
        """Return the bytes of the longest frame that a read of ``network`` can bring."""
        return self._hosted[network].network.longest_frame

    def members(self, network: str) -> tuple[list[MemberInfo], frozenset[Address]]:
        """Return the devices of a network, and every address there that is somebody's."""
        inside = self._hosted[network].network
        return inside.members(), inside.addresses.taken()

    def follow_members(self, network: str, on_change: Callable[[], None]) -> None:
        """Have ``on_change`` called, in the loop, when :meth:`members` may answer anew."""
        self._hosted[network].on_members = on_change

    def change_policy(self, network: str, rules: Iterable[Rule], guard: Preset) -> list[str]:
        """Put a new policy in force, see :meth:`Network.change_policy`."""
        hosted = self._hosted[network]
        changes = hosted.network.change_policy(rules, guard)
        self._settle(hosted)
        return changes

    async def adopt(self, network: str, ticket: str, owner: str, descriptor: int) -> None:
        """Put the lent ``descriptor`` behind the open that ``ticket`` is for.

        Takes the descriptor over in every case. Raises a DeviceError if the ticket is not good
        or the descriptor is no TAP fit for use.
        """
        hosted = self._hosted[network]
        try:
            handle = hosted.network.redeem(ticket, owner, self._clock())
        except DeviceError:
            os.close(descriptor)
            raise
        link = await self._loop.run_in_executor(
            self._helpers, LentTap.adopt, descriptor, handle.nic.device.mac
        )
        self._carry_or_close(network, handle, link, 0)

    def open_outlet(
        self, network: str, owner: str, device: str, kind: str, peer: str, node: str = ""
    ) -> Outlet:
        """Open a device on behalf of ``owner`` for a link of the server's own.

        No client and no gRPC task is needed; the device counts against the owner's quotas. With
        :data:`~hypervisor.mach.devices.UPLINK_OWNER` as owner it is an uplink. ``kind`` and
        ``peer`` are shown while there is no link; policy may go by ``node``, the path that links
        come by. See :mod:`hypervisor.links.outlet`. Raises InvalidArgument for a bad name,
        AlreadyOpen if the device has a stack, NoMemory at a quota.
        """
        hosted = self._hosted[network]
        handle = hosted.network.open_outlet(owner, device, kind, peer, node)
        outlet = Outlet(
            hosted.network,
            handle,
            carry=lambda which, link, mtu: self._carry_or_close(network, which, link, mtu),
            settle=lambda: self._settle(hosted),
            clock=self._clock,
            forget=lambda: hosted.outlets.pop(handle.open, None),
        )
        hosted.outlets[handle.open] = outlet
        self._settle(hosted)
        return outlet

    def _carry_or_close(self, network: str, handle: Handle, link: Link, mtu: int) -> None:
        try:
            self.carry(network, handle, link, mtu)
        except DeviceError:
            self._close_later(link)
            raise

    def carry(self, network: str, handle: Handle, link: Link, mtu: int = 0) -> None:
        """Put ``link`` behind an open and move frames until either ends.

        Frames are written in this thread if the link is a socket, or the device is an uplink, or
        its owner is the server's own uid or trusted by policy; else in a thread of the link's own.
        ``mtu`` is shown. Raises
        InvalidDest, AlreadyOpen, and NoMemory if there can be no such thread: the link is gone.
        """
        hosted = self._hosted[network]
        device = handle.nic.device
        inline = not isinstance(link, PatientLink) and (
            device.policy.trusted or device.owner == self._own or device.uplink
        )
        hosted.network.attach(
            handle,
            link.kind,
            self._clock(),
            vnet_header=link.vnet_header,
            accepts=link.accepts,
            direct=inline,
            patient=isinstance(link, PatientLink),
            peer=link.peer,
            mtu=mtu,
        )
        try:
            carrier = self._carrier(hosted, handle, link, inline)
        except (OSError, RuntimeError) as error:
            why = f"no thread can be started to write to it ({error})"
            hosted.network.detach(handle, why, self._clock())
            self._settle(hosted)
            raise NoMemory(f"{device.name}: {why}: the server has too many") from error
        hosted.carriers[handle.open] = carrier
        carrier.start()
        self._settle(hosted)

    def _carrier(self, hosted: _Hosted, handle: Handle, link: Link, inline: bool) -> Reader:
        host = Host(
            hosted.network,
            self._path,
            clock=self._clock,
            find=hosted.carrier_of_flow,
            settle=lambda: self._settle(hosted),
            close_later=self._close_later,
        )
        if isinstance(link, PatientLink):
            return PatientCarrier(host, handle, link)
        return Carrier(host, handle, link, inline=inline)

    async def stop(self) -> None:
        """End every held request with ServerDied, close every link. Twice is allowed."""
        if self._stopped:
            return
        self._stopped = True
        self._touch_timer.cancel()
        self._look_timer.cancel()
        for hosted in self._hosted.values():
            hosted.network.stop(self._clock())
            self._settle(hosted)
            if hosted.timer is not None:
                hosted.timer.cancel()
        await self._loop.run_in_executor(None, self._helpers.shutdown)
        self._path.stop()

    # --- what the core leaves behind ----------------------------------------------------------

    def _settle(self, hosted: _Hosted) -> None:
        """Act on everything the core has to say, until it says no more."""
        network, engine = hosted.network, hosted.network.engine
        while engine.passing:
            for each, frames, header_bytes in network.take_passing():
                carrier = hosted.carriers.get(each)
                if not isinstance(carrier, Carrier):
                    dropped_bytes = sum(map(len, frames)) - header_bytes * len(frames)
                    drops = {LINK_GONE: len(frames)}
                    network.passed(each, frames, header_bytes, drops, dropped_bytes)
                else:
                    carrier.write_run(each, frames, header_bytes)
        while engine.links_ready:
            each = next(iter(engine.links_ready))
            del engine.links_ready[each]
            carrier = hosted.carriers.get(each)
            if carrier is not None:
                carrier.flush()
        if engine.links_readable:
            readable = list(engine.links_readable)
            engine.links_readable.clear()
            for each in readable:
                if each in hosted.carriers:
                    hosted.carriers[each].resume()
        if network.closed_links:
            self._close_links(hosted)
        if network.completions:
            self._on_completions(network.take_completions())
        if network.events or engine.notices:
            self._publish(network)
        if network.addresses.changes:
            self._leases.keep(network)
        if network.has_crossings:
            for joined in self._interconnect.carry(network, self._clock()):
                self._settle(self._hosted[joined.name])
        if network.roster != hosted.roster:
            hosted.roster = network.roster
            hosted.on_members()
        due = network.poll_at()
        if due != hosted.timer_at:
            self._arm(hosted, due)

    def _close_links(self, hosted: _Hosted) -> None:
        closed = list(hosted.network.closed_links)
        hosted.network.closed_links.clear()
        for handle in closed:
            carrier = hosted.carriers.pop(handle.open, None)
            if carrier is not None:
                carrier.stop()
            outlet = hosted.outlets.get(handle.open)
            tell = outlet.ended() if outlet is not None else None
            if tell is not None and handle.record is not None:
                # Later: whoever is told may plug the next link in.
                self._loop.call_soon(tell, handle.record.detail)

    def _publish(self, network: Network) -> None:
        stamp = self._wall()
        self._on_events([(stamp, event) for event in network.take_events()])

    def _arm(self, hosted: _Hosted, due: float | None) -> None:
        if hosted.timer is not None:
            hosted.timer.cancel()
            hosted.timer = None
        hosted.timer_at = due
        if due is not None and not self._stopped:
            delay_s = max(0.0, due - self._clock())
            hosted.timer = self._loop.call_later(delay_s, self._tick, hosted)

    def _tick(self, hosted: _Hosted) -> None:
        hosted.timer = hosted.timer_at = None
        hosted.network.tick(self._clock())
        self._settle(hosted)

    def _look_at_links(self) -> None:
        self._look_timer = self._loop.call_later(LOOK_S, self._look_at_links)
        for hosted in self._hosted.values():
            for carrier in list(hosted.carriers.values()):
                carrier.look()

    def _close_later(self, link: Link) -> None:
        self._helpers.submit(self._path.close, link)

    def _touch_leases(self) -> None:
        self._touch_timer = self._loop.call_later(TOUCH_S, self._touch_leases)
        self._leases.touch(hosted.network for hosted in self._hosted.values())


def _ignore(_: object) -> None:
    """Nobody is bound yet."""
