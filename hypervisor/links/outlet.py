"""An outlet: a port that the server itself holds open for links that come and go.

For links that no client brings: uplink NICs, guests' sockets, cables. :meth:`Runtime.open_outlet`
opens it, for an owner and a device name, without a task of any client; from then on the device is
there, with its address, and shows "waiting". Whoever makes the links then says

    plug(link)      frames flow; "up"
    changed(...)    the link's interface went down, came up, has another MTU, another name
    refused(why)    somebody else wanted to be its link
    missed(...)     the kernel lost frames before we saw them
    unplug(why)     the link is taken out and closed; "waiting" again
    close()         the device is given up

and is told by ``on_gone(why)`` when a link ended by itself: the outlet is waiting again then. Port,
address and counters stay all the while. All of it is to be called in the runtime's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypervisor.infos import LinkState
from hypervisor.links.base import Link
from hypervisor.network import Network
from hypervisor.nic import Handle
from hypervisor.requests import EventKind

#: Refusals are told at most this often for each outlet, in seconds; the next tells how many more.
REFUSAL_EVENT_S = 1.0

OnGone = Callable[[str], None]


class Outlet:
    """See the module. Make one with :meth:`hypervisor.runtime.Runtime.open_outlet`."""

    def __init__(
        self,
        network: Network,
        handle: Handle,
        *,
        carry: Callable[[Handle, Link, int], None],
        settle: Callable[[], None],
        clock: Callable[[], float],
        forget: Callable[[], object],
    ) -> None:
        self._network = network
        self._handle = handle
        self._carry = carry
        self._settle = settle
        self._clock = clock
        self._forget = forget
        self._pulling = False
        self._quiet_until, self._untold = clock(), 0
        #: Told, in the loop, why a link ended by itself. Plugging another one there is allowed.
        self.on_gone: OnGone | None = None

    @property
    def name(self) -> str:
        """The device's name."""
        return self._handle.nic.device.name

    @property
    def mac(self) -> bytes:
        """The 6-byte address of the device; an uplink's is never on the wire."""
        return self._handle.nic.device.mac

    @property
    def mtu(self) -> int:
        """The network's IP MTU in bytes."""
        return self._network.mtu

    @property
    def plugged(self) -> bool:
        """Whether a link is in it now."""
        return bool(self._handle.link)

    def plug(self, link: Link, mtu: int = 0) -> None:
        """Put a link in; it is the outlet's from now on, also if this fails.

        ``mtu`` is the IP MTU of the link's own interface in bytes, 0 if it has none. Raises
        AlreadyOpen if there is a link, InvalidDest if the outlet was closed.
        """
        self._carry(self._handle, link, mtu)

    def unplug(self, why: str) -> None:
        """Take the link out, if there is one, and have it closed; ``on_gone`` is not called."""
        self._pulling = True
        try:
            self._network.unplug(self._handle, why, self._clock())
            self._settle()
        finally:
            self._pulling = False

    def changed(
        self,
        detail: str,
        *,
        state: LinkState | None = None,
        mtu: int | None = None,
        peer: str | None = None,
    ) -> None:
        """Say that the link is up or down now, has another MTU or leads elsewhere.

        It is an event, and shown. Without a link it can only be said why there is none.
        """
        self._network.set_link(self._handle, detail, state=state, mtu=mtu, peer=peer)
        self._settle()

    def refused(self, why: str) -> None:
        """Say that somebody was not let in: an event, at most one in :data:`REFUSAL_EVENT_S`."""
        now = self._clock()
        if now < self._quiet_until:
            self._untold += 1
            return
        device, untold = self._handle.nic.device, self._untold
        self._quiet_until, self._untold = now + REFUSAL_EVENT_S, 0
        self._network.event(EventKind.LINK_REFUSED, device, why, repetitions=untold)
        self._settle()

    def missed(self, drops: Mapping[str, int]) -> None:
        """Count frames, by reason, that were lost before this network saw them."""
        self._network.missed(self._handle, drops)

    def close(self) -> None:
        """Give the device up; a link in it is closed. Twice is allowed."""
        self._pulling = True
        self._network.close_outlet(self._handle, self._clock())
        self._settle()
        self._forget()

    def ended(self) -> OnGone | None:
        """The runtime says that the link is out; returns who is to be told, if anybody."""
        return None if self._pulling else self.on_gone
