"""Uplinks to interfaces of this host: follows them wherever they go, and is never surprised.

For each configured interface there is an outlet in its network and one packet socket, opened while
that was allowed. The kernel tells of every change (:class:`~hypervisor.kernel.netlink.LinkWatch`),
and after each one :meth:`NicUplink.follow` compares what is there with what it has:

    not there                         the outlet waits; when the name appears it is plugged
    renamed                           followed: it is the same interface, by its index
    down, no carrier, up, other MTU   shown and told, the link stays
    taken by a bridge or bond         unplugged: frames would pass twice; plugged when it is free
    no Ethernet                       waits: it may be replaced by one that is

Nothing of that is fatal. An interface that vanished under a name and comes back under it is taken
again, with another index. Which interfaces there are is of the namespace the server runs in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Final

from hypervisor.infos import LinkState
from hypervisor.kernel import packet
from hypervisor.kernel.netlink import LinkFacts, LinkWatch, NetlinkFailure
from hypervisor.links.outlet import Outlet
from hypervisor.links.packet_socket import NicLink

log = logging.getLogger(__name__)

#: How often the kernel's counters are read, and what is not there is looked for, in seconds.
LOOK_S: Final = 1.0
#: How long an interface is not read when a storm comes by it, in seconds.
STORM_PAUSE_S: Final = 0.1


class NicUplink:
    """One interface as an uplink: an outlet, a socket, and what is known of the interface."""

    def __init__(self, outlet: Outlet, name: str, sock: socket.socket, header_bytes: int) -> None:
        self._outlet = outlet
        self._wanted = name
        self._socket = sock
        self._header_bytes = header_bytes
        self._link: NicLink | None = None
        #: What the interface was like when it was last looked at; None while it is not used.
        self._facts: LinkFacts | None = None
        #: The interface that was used last: it is the same one under any name, while it exists.
        self._index = 0
        self._stormy = False
        #: Why the outlet waits, as last told.
        self.trouble = ""
        outlet.on_gone = self._gone

    def follow(self, links: Mapping[int, LinkFacts]) -> None:
        """Compare with the interfaces there are now, by index, and do what follows."""
        known = self._facts
        facts = links.get(self._index)
        if facts is None:
            facts = next((each for each in links.values() if each.name == self._wanted), None)
        trouble = self._trouble_with(facts, links)
        if trouble:
            self._wait(trouble)
        elif known is None or self._link is None or facts is None or known.index != facts.index:
            if facts is not None:
                self._plug(facts)
        elif facts != known:
            self._facts = facts
            self._tell_changes(self._link, known, facts)

    def look(self) -> None:
        """Pass on what the kernel has counted."""
        if self._link is not None:
            if not self._stormy:
                self._link.resume()
            missed = self._link.take_missed()
            if missed:
                self._outlet.missed(missed)

    def _trouble_with(self, facts: LinkFacts | None, links: Mapping[int, LinkFacts]) -> str:
        """Say why an interface cannot be used now, and what to do; "" if it can."""
        if facts is None:
            others = ", ".join(sorted(each.name for each in links.values() if each.ethernet))
            return f"there is no interface {self._wanted} (there are: {others or 'none'})"
        if not facts.ethernet:
            return f"{facts.name} carries no Ethernet: choose another interface"
        if facts.master:
            master = links.get(facts.master)
            by = master.name if master is not None else f"interface {facts.master}"
            return (
                f"{facts.name} belongs to {by}, which takes its frames: make {by} the uplink, "
                f"or free it with: ip link set {facts.name} nomaster"
            )
        return ""

    def _wait(self, trouble: str) -> None:
        had_link = self._link is not None
        self._let_go()
        if had_link:
            self._outlet.unplug(trouble)
        elif trouble != self.trouble:
            self._outlet.changed(trouble)
        self.trouble = trouble

    def _let_go(self) -> None:
        self.look()
        self._link = self._facts = None
        packet.deafen(self._socket)

    def _plug(self, facts: LinkFacts) -> None:
        if self._link is not None:
            self._let_go()
            self._outlet.unplug(f"{self._wanted} is another interface now")
        try:
            packet.listen(self._socket, facts.name)
        except OSError as error:
            # It went between the news and now, or somebody forbids it: the next look tries again.
            self._wait(f"cannot listen to {facts.name}: {error.strerror}")
            return
        packet.take_drops(self._socket)  # from here on
        self._link = NicLink(self._socket, facts.name, facts.mtu_bytes, self._header_bytes)
        self._link.on_storm = self._storm
        self._facts, self._index, self.trouble = facts, facts.index, ""
        self._outlet.plug(self._link, facts.mtu_bytes)
        if facts.mtu_bytes < self._outlet.mtu:
            self._outlet.changed(self._mtu_warning(facts))
        if not _frames_pass(facts):
            self._outlet.changed(_state_in_words(facts), state=LinkState.DOWN)

    def _tell_changes(self, link: NicLink, before: LinkFacts, after: LinkFacts) -> None:
        if after.name != before.name:
            link.peer = after.name
            self._outlet.changed(f"{before.name} is called {after.name} now", peer=after.name)
        if after.mtu_bytes != before.mtu_bytes:
            link.mtu = after.mtu_bytes
            self._outlet.changed(self._mtu_warning(after), mtu=after.mtu_bytes)
        if _frames_pass(after) != _frames_pass(before):
            state = LinkState.UP if _frames_pass(after) else LinkState.DOWN
            self._outlet.changed(_state_in_words(after), state=state)

    def _mtu_warning(self, facts: LinkFacts) -> str:
        text = f"{facts.name} has mtu {facts.mtu_bytes}"
        if facts.mtu_bytes < self._outlet.mtu:
            text += f", the network {self._outlet.mtu}: longer frames are lost there"
        return text

    def _storm(self) -> None:
        """Give everybody else the loop for a moment; the kernel drops what is too much."""
        self._stormy = True
        asyncio.get_running_loop().call_later(STORM_PAUSE_S, self._calm)

    def _calm(self) -> None:
        self._stormy = False
        if self._link is not None:
            self._link.resume()

    def _gone(self, why: str) -> None:
        """The link ended by itself: the news of the interface will say what is next."""
        self._let_go()
        self.trouble = why


def _frames_pass(facts: LinkFacts) -> bool:
    return facts.up and facts.running


def _state_in_words(facts: LinkFacts) -> str:
    if not facts.up:
        return f"{facts.name} is down: ip link set {facts.name} up"
    return f"{facts.name} is up" if facts.running else f"{facts.name} has no carrier"


class NicKeeper:
    """Keeps all uplinks of a server after the kernel's news. Make it in the running loop."""

    def __init__(self, uplinks: Sequence[NicUplink]) -> None:
        self._uplinks = uplinks
        self._loop = asyncio.get_running_loop()
        self._watch = LinkWatch()
        self._loop.add_reader(self._watch.fileno(), self._news)
        self._timer = self._loop.call_later(LOOK_S, self._look)
        self._follow()

    def _news(self) -> None:
        try:
            self._watch.read()
        except NetlinkFailure as error:
            log.error("%s", error)
        self._follow()

    def _follow(self) -> None:
        for uplink in self._uplinks:
            uplink.follow(self._watch.links)

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK_S, self._look)
        for uplink in self._uplinks:
            uplink.look()
            if uplink.trouble:
                uplink.follow(self._watch.links)

    def close(self) -> None:
        """Stop following. The uplinks stay as they are; twice is allowed."""
        self._timer.cancel()
        if self._watch.fileno() >= 0:
            with contextlib.suppress(RuntimeError):
                self._loop.remove_reader(self._watch.fileno())
            self._watch.close()
