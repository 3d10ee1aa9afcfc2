"""Whether the ports of this machine that are to lead to devices can be had, asked beforehand."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from hypervisor.config.model import GatewayConfig, PortForward
from hypervisor.serve.errors import StartError

_UNPRIVILEGED = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


def check_ports(gateways: Iterable[GatewayConfig]) -> None:
    """See that nobody has the ports and that an ordinary user may have them.

    pasta opens them later, as the gateway's user. Raises StartError.
    """
    for gateway in gateways:
        for forward in gateway.forwards:
            _check(forward)


def _check(forward: PortForward) -> None:
    lowest = _lowest_port()
    if forward.port < lowest:
        raise StartError(
            f"-p {forward}: ports below {lowest} are not for ordinary users, and gateways run as "
            f"one: choose a higher port, or sysctl -w net.ipv4.ip_unprivileged_port_start="
            f"{forward.port}"
        )
    family = socket.AF_INET if forward.host.version == 4 else socket.AF_INET6
    kind = socket.SOCK_DGRAM if forward.udp else socket.SOCK_STREAM
    with socket.socket(family, kind) as probe:
        if not forward.udp:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((str(forward.host), forward.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                why = "another program has that port: choose another one"
            elif error.errno == errno.EADDRNOTAVAIL:
                why = f"this machine has no address {forward.host}"
            else:
                why = str(error.strerror)
            raise StartError(f"-p {forward}: {why}") from None


def _lowest_port() -> int:
    try:
        with open(_UNPRIVILEGED, encoding="ascii") as setting:
            return int(setting.read())
    except OSError:
        return 1024
