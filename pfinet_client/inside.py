"""The inner half of ``run`` and ``attach``: enters the namespaces, makes the TAP, and sets it up.

It runs in a child that was forked before gRPC existed, and talks to its parent over a socket pair
that keeps message boundaries (SOCK_SEQPACKET), one JSON object a message::

    inner → outer    tap, with the TAP's descriptor        the TAP exists in its namespace
    outer → inner    settings: mac, mtu                    the device is open, addresses claimed
    inner → outer    ready                                 MAC and MTU are set: lend the TAP
    outer → inner    go                                    lent: link up; what comes then is up to
                                                           Inside.stay
    inner → outer    failed | said | exit                  a reason; a remark; the exit code

The order is forced from both sides. The server compares the TAP's MAC with the device's when it
adopts it, and the link-local address is made from the MAC when the link comes up.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from hypervisor.kernel.messages import receive, send
from hypervisor.kernel.preflight import explain_tap
from hypervisor.kernel.process import close_private_descriptors, set_parent_death_signal
from hypervisor.kernel.tap import create_tap

if TYPE_CHECKING:
    from hypervisor.kernel.netlink import Netlink

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Exit code of run's own failures, as of env, podman and timeout.
FAILED = 125

#: A TAP's queue is 500 frames by default: 25 ms at 20,000 frames/s, less than a busy machine may
#: leave the server waiting. This is four times as patient.
QUEUE_FRAMES = 2_000


@dataclass(frozen=True, slots=True)
class Inside:
    """What the inner half needs to know from the start.

    ``interface`` is the TAP's name; ``vnet_header`` is false where this client pumps the frames.
    ``enter`` moves the process into its namespaces, with the descriptors ``kept`` still open;
    ``stay``, called with the socket and the parent's pid once the interface is up, returns the
    exit code when the network is no longer wanted.
    """

    interface: str
    addresses: tuple[Interface, ...]
    gateways: tuple[Address, ...]
    vnet_header: bool
    enter: Callable[[], None]
    stay: Callable[[socket.socket, int], int]
    kept: tuple[int, ...] = ()


def live_inside(inside: Inside, sock: socket.socket, parent_pid: int) -> NoReturn:
    """Be the inner half until the network is no longer wanted.

    Never returns, and runs no cleanup of the caller's.
    """
    code = FAILED
    try:
        close_private_descriptors(sock.fileno(), *inside.kept)
        code = _live(inside, sock, parent_pid)
        send(sock, "exit", code=code)
    except Exception as error:
        # There is nobody above to raise to: whatever it is, the outer half says it.
        with contextlib.suppress(OSError):  # nobody may be left to hear it
            send(sock, "failed", text=getattr(error, "strerror", None) or str(error))
    finally:
        os._exit(code)


def _live(inside: Inside, sock: socket.socket, parent_pid: int) -> int:
    set_parent_death_signal(parent_pid)
    inside.enter()
    # A change of credentials clears it, and entering a user namespace is one.
    set_parent_death_signal(parent_pid)
    tap = _make_tap(inside)
    send(sock, "tap", (tap,))
    # The outer half and the server hold it now; with the last of them the interface goes.
    os.close(tap)
    # Late, since pyroute2 takes a while to import, and the outer half is connecting meanwhile.
    from hypervisor.kernel.netlink import Netlink

    settings = _expect(sock, "settings")
    with Netlink() as net:
        net.set_mac(inside.interface, bytes.fromhex(settings["mac"]))
        net.set_mtu(inside.interface, settings["mtu"])
        net.set_queue_length(inside.interface, QUEUE_FRAMES)
        net.set_eui64(inside.interface)
        send(sock, "ready")
        _expect(sock, "go")
        _bring_up(net, inside)
    return inside.stay(sock, parent_pid)


def _make_tap(inside: Inside) -> int:
    try:
        return create_tap(inside.interface, vnet_header=inside.vnet_header)
    except OSError as error:
        if error.errno == errno.EBUSY:
            text = (
                f"there is an interface {inside.interface} in that namespace already: choose "
                "another name with --ifname"
            )
        else:
            text = f"cannot make the TAP {inside.interface} inside: {explain_tap(error)}"
        raise RuntimeError(text) from None


def _bring_up(net: Netlink, inside: Inside) -> None:
    net.set_up("lo")
    net.set_up(inside.interface)
    for address in inside.addresses:
        net.add_address(inside.interface, address)
    for gateway in inside.gateways:
        net.add_default_route(inside.interface, gateway)


def _expect(sock: socket.socket, kind: str) -> dict[str, Any]:
    message, _ = receive(sock)
    if message["kind"] != kind:
        os._exit(FAILED)  # the outer half gave up and has said why
    return message
