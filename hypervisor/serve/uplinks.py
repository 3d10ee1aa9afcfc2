"""Uplinks of a server: opened while it may, followed while it runs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypervisor.config.model import UplinkConfig
from hypervisor.errors import DeviceError
from hypervisor.kernel.packet import open_packet_socket
from hypervisor.links.uplink import NicKeeper, NicUplink
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.runtime import Runtime
from hypervisor.serve.errors import StartError
from hypervisor.serve.heritage import UPLINK, Heritage


@dataclass(frozen=True, slots=True)
class UplinkDoor:
    """What an uplink needs privilege for: a packet socket, and the bytes of its header."""

    config: UplinkConfig
    socket: socket.socket
    header_bytes: int


def open_uplink(
    uplink: UplinkConfig, stack: contextlib.ExitStack, heritage: Heritage
) -> UplinkDoor:
    """Open what an uplink needs privilege for, until the stack is unwound. Raises StartError.

    The socket of the server that we follow will do, for whichever interface it was.
    """
    left = heritage.take_socket(UPLINK, f"{uplink.network} {uplink.interface}")
    if left is not None:
        sock, told = left
        stack.callback(sock.close)
        return UplinkDoor(uplink, sock, int(told.about[0]))
    try:
        sock, header_bytes = open_packet_socket()
    except PermissionError as error:
        raise StartError(
            f"uplink nic:{uplink.interface} needs CAP_NET_RAW to begin with: start the server as "
            "root (it gives its privileges up), or leave --uplink out"
        ) from error
    except OSError as error:
        raise StartError(
            f"uplink nic:{uplink.interface}: no packet sockets here: {error.strerror}"
        ) from error
    stack.callback(sock.close)
    return UplinkDoor(uplink, sock, header_bytes)


def follow_uplinks(
    runtime: Runtime, doors: Sequence[UplinkDoor]
) -> tuple[NicKeeper, Mapping[UplinkConfig, str]]:
    """Connect networks to interfaces; returns who follows them (close it), and how each is.

    Call it in the runtime's loop. Raises StartError for more uplinks than a network takes, OSError
    if the interfaces cannot be watched.
    """
    uplinks = {door.config: _uplink(runtime, door) for door in doors}
    keeper = NicKeeper(list(uplinks.values()))
    return keeper, {
        config: f"waiting: {one.trouble}" if one.trouble else "up"
        for config, one in uplinks.items()
    }


def _uplink(runtime: Runtime, door: UplinkDoor) -> NicUplink:
    interface = door.config.interface
    try:
        outlet = runtime.open_outlet(door.config.network, UPLINK_OWNER, interface, "nic", interface)
    except DeviceError as error:
        raise StartError(f"uplink nic:{interface}: {error}") from error
    return NicUplink(outlet, interface, door.socket, door.header_bytes)
