"""Interfaces, addresses and routes of the network namespace this thread is in.

A thin, typed door to pyroute2, which no other module imports. Each :class:`Netlink` opens its own
socket (and, inside pyroute2, an event loop that runs in the calling thread only: no thread is
started), so use it after ``unshare`` and within one thread::

    with Netlink() as net:
        net.set_up("lo")
        net.set_mtu("eth0", 1500)
        net.add_address("eth0", IPv4Interface("10.0.0.1/24"))

Every method raises :class:`NetlinkFailure` saying what was asked and what the kernel answered.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from socket import AF_INET, AF_INET6
from types import TracebackType
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink import NLMSG_DONE
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_NEWLINK
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_IFF_UP = 0x1
_IFF_RUNNING = 0x40
_IFF_LOWER_UP = 0x10000
_ARPHRD_ETHER = 1
_IFA_F_NODAD = 0x02
_IN6_ADDR_GEN_MODE_EUI64 = 0
_RTMGRP_LINK = 1
_NLM_F_REQUEST_DUMP = 0x301
_RTM_GETLINK = 18
#: nlmsghdr (length, type, flags, sequence, port) and an ifinfomsg of zeros: every interface.
_GETLINK_DUMP = struct.pack("=IHHII16x", 32, _RTM_GETLINK, _NLM_F_REQUEST_DUMP, 1, 0)
#: The kernel sends at most 32 KiB at a time to who makes room for it.
_DATAGRAM_BYTES = 1 << 16


class NetlinkFailure(OSError):
    """The kernel refused; ``str()`` says what was asked of which interface and why not."""


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Counters of an interface, as ``ip -s link`` shows them."""

    rx_packets: int
    rx_bytes: int
    rx_dropped: int
    rx_errors: int
    tx_packets: int
    tx_bytes: int
    tx_dropped: int
    tx_errors: int


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """One interface: ``up`` is the administrator's wish, ``carrier`` whether frames can pass.

    ``running`` is true a little later than ``carrier``, when the kernel's queues are ready as well.
    ``master`` is the index of the bridge or bond that it belongs to, 0 for none.
    """

    index: int
    name: str
    mac: bytes
    mtu_bytes: int
    up: bool
    carrier: bool
    stats: LinkStats
    running: bool
    ethernet: bool
    master: int


class Netlink:
    """A routing socket in the current network namespace; a context manager."""

    def __init__(self) -> None:
        self._route = IPRoute()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; twice is allowed."""
        self._route.close()

    # --- looking ------------------------------------------------------------------------------

    def links(self) -> list[LinkFacts]:
        """Return every interface of the namespace, by index."""
        with _asking("list the interfaces"):
            return [_facts(message) for message in self._route.get_links()]

    def link(self, name: str) -> LinkFacts:
        """Return the interface ``name``."""
        with _asking(f"look at interface {name}"):
            return _facts(next(iter(self._route.link("get", ifname=name))))

    def stats(self, name: str) -> LinkStats:
        """Return the counters of interface ``name``."""
        return self.link(name).stats

    def addresses(self, name: str) -> list[IPInterface]:
        """Return the addresses of interface ``name`` with their prefix lengths."""
        index = self._index(name)
        with _asking(f"list the addresses of {name}"):
            return [
                ipaddress.ip_interface(
                    f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}"
                    f"/{message['prefixlen']}"
                )
                for message in self._route.get_addr(index=index)
            ]

    def all_addresses(self) -> frozenset[IPAddress]:
        """Return the addresses of every interface of the namespace."""
        with _asking("list the addresses"):
            return frozenset(
                ipaddress.ip_address(
                    message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                )
                for message in self._route.get_addr()
            )

    def default_routes(self) -> frozenset[tuple[int, int]]:
        """Return the default routes as (version of IP, index of the interface, 0 if several)."""
        with _asking("list the default routes"):
            return frozenset(
                (version, message.get_attr("RTA_OIF") or 0)
                for version, family in ((4, AF_INET), (6, AF_INET6))
                for message in self._route.get_default_routes(family=family)
                if message.get_attr("RTA_OIF") or message.get_attr("RTA_MULTIPATH")
            )

    # --- changing -----------------------------------------------------------------------------

    def set_up(self, name: str) -> None:
        """Set the interface's administrative state to up."""
        self._set(name, "set up", state="up")

    def set_down(self, name: str) -> None:
        """Set the interface's administrative state to down: its addresses of IPv6 go."""
        self._set(name, "set down", state="down")

    def set_mtu(self, name: str, mtu_bytes: int) -> None:
        """Set the largest IP packet the interface takes, in bytes."""
        self._set(name, f"set an MTU of {mtu_bytes} bytes on", mtu=mtu_bytes)

    def set_queue_length(self, name: str, frames: int) -> None:
        """Bound how many frames the interface queues for sending; a TAP's reader takes from it."""
        self._set(name, f"queue {frames} frames on", txqlen=frames)

    def set_mac(self, name: str, mac: bytes) -> None:
        """Set the interface's 6-byte MAC address."""
        text = mac.hex(":")
        self._set(name, f"set the MAC address {text} on", address=text)

    def set_eui64(self, name: str) -> None:
        """Make IPv6 addresses from the MAC (RFC 4291 appendix A), not from a secret.

        Call it before :meth:`set_up`: the link-local address is made then.
        """
        mode = {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _IN6_ADDR_GEN_MODE_EUI64]]}
        family = {"attrs": [["AF_INET6", mode]]}
        self._set(name, "choose EUI-64 addresses on", IFLA_AF_SPEC=family)

    def rename(self, name: str, new_name: str) -> None:
        """Rename an interface that is down."""
        self._set(name, f"rename to {new_name}", ifname=new_name)

    def add_address(self, name: str, address: IPInterface, *, nodad: bool = True) -> None:
        """Add an address with its prefix.

        IPv6 addresses are usable at once with ``nodad``: without it they are tentative for a second
        or more, while duplicate address detection (RFC 4862) listens.
        """
        index = self._index(name)
        options: dict[str, Any] = {}
        if address.version == 6 and nodad:
            options["flags"] = _IFA_F_NODAD
        with _asking(f"add the address {address} to {name}"):
            self._route.addr(
                "add",
                index=index,
                family=AF_INET if address.version == 4 else AF_INET6,
                address=str(address.ip),
                prefixlen=address.network.prefixlen,
                **options,
            )

    def remove_address(self, name: str, address: IPInterface) -> None:
        """Remove an address."""
        index = self._index(name)
        with _asking(f"remove the address {address} from {name}"):
            self._route.addr(
                "del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen
            )

    def add_default_route(self, name: str, gateway: IPAddress) -> None:
        """Send what has no other route to ``gateway``, which must be on the link of ``name``."""
        self._default_route("add", name, gateway)

    def set_default_route(self, name: str, gateway: IPAddress) -> None:
        """As :meth:`add_default_route`, in the place of one that there is already."""
        self._default_route("replace", name, gateway)

    def _default_route(self, how: str, name: str, gateway: IPAddress) -> None:
        index = self._index(name)
        with _asking(f"route everything through {gateway} on {name}"):
            self._route.route(
                how,
                family=AF_INET if gateway.version == 4 else AF_INET6,
                dst="default",
                gateway=str(gateway),
                oif=index,
            )

    def remove_link(self, name: str) -> None:
        """Delete an interface (``ip link del``)."""
        index = self._index(name)
        with _asking(f"delete interface {name}"):
            self._route.link("del", index=index)

    def _index(self, name: str) -> int:
        with _asking(f"find interface {name}"):
            return int(next(iter(self._route.link("get", ifname=name)))["index"])

    def _set(self, name: str, what: str, **attributes: Any) -> None:
        index = self._index(name)
        with _asking(f"{what} interface {name}"):
            self._route.link("set", index=index, **attributes)


@contextmanager
def _asking(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        reason = os.strerror(error.code)
        raise NetlinkFailure(error.code, f"cannot {what}: {reason}") from None


def _facts(message: Any) -> LinkFacts:
    counters = message.get_attr("IFLA_STATS64") or message.get_attr("IFLA_STATS") or {}
    names = LinkStats.__slots__
    return LinkFacts(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mac=bytes.fromhex((message.get_attr("IFLA_ADDRESS") or "").replace(":", "")),
        mtu_bytes=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & _IFF_UP),
        carrier=bool(message["flags"] & _IFF_LOWER_UP),
        stats=LinkStats(*(counters.get(name, 0) for name in names)),
        running=bool(message["flags"] & _IFF_RUNNING),
        ethernet=message["ifi_type"] == _ARPHRD_ETHER,
        master=message.get_attr("IFLA_MASTER") or 0,
    )


class LinkWatch:
    """All interfaces of the namespace, and what happens to them: for an event loop.

    Watch :meth:`fileno`; when it polls readable call :meth:`read`, after which :attr:`links` is how
    things are. It is so from the beginning. If more happens than the socket holds, the kernel is
    asked for everything anew. Never blocks; needs no privilege. Raises NetlinkFailure.
    """

    def __init__(self) -> None:
        #: Every interface there is now, by index.
        self.links: dict[int, LinkFacts] = {}
        self._marshal = MarshalRtnl()
        #: The interfaces seen in answer to a question that is not answered fully yet.
        self._dumped: set[int] | None = None
        self._ask_again = False
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
        try:
            self._socket.bind((0, _RTMGRP_LINK))
            self._ask()
            self.read()
        except OSError as error:
            self._socket.close()
            raise NetlinkFailure(
                error.errno, f"cannot watch the interfaces: {error.strerror}"
            ) from None

    def fileno(self) -> int:
        """Return the descriptor to poll, or -1 after close()."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop watching. Twice is allowed."""
        self._socket.close()

    def read(self) -> None:
        """Take notice of what happened since the last time."""
        while True:
            try:
                data = self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._lost_news()
                continue
            for message in self._marshal.parse(data):
                self._take(message)

    def _lost_news(self) -> None:
        """Ask anew, after the answer to the last question: there is one at a time."""
        if self._dumped is None:
            self._ask()
        else:
            self._ask_again = True

    def _ask(self) -> None:
        """Ask for all interfaces; the answers come among the news."""
        self._ask_again = False
        self._dumped = set()
        self._socket.send(_GETLINK_DUMP)

    def _take(self, message: Any) -> None:
        kind = message["header"]["type"]
        if kind == NLMSG_DONE:
            if self._dumped is not None:
                self.links = {index: self.links[index] for index in self._dumped}
            self._dumped = None
            if self._ask_again:
                self._ask()
        elif kind in (RTM_NEWLINK, RTM_DELLINK) and message["family"] == socket.AF_UNSPEC:
            # (A bridge says of its ports that they are "deleted" when they leave it: AF_BRIDGE.)
            index = message["index"]
            if kind == RTM_NEWLINK:
                self.links[index] = _facts(message)
                if self._dumped is not None:
                    self._dumped.add(index)
            else:
                self.links.pop(index, None)
                if self._dumped is not None:
                    self._dumped.discard(index)
