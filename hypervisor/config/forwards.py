"""Ports of this machine that lead to a device: ``[HOST:]PORT:[OWNER/]DEVICE:PORT[/udp]``."""

from __future__ import annotations

import ipaddress
import os
import re

from hypervisor.config.kinds import BadValue, Kind, shown
from hypervisor.config.model import PortForward
from hypervisor.config.people import OWNER

_FORM = re.compile(
    r"(?:(\[[0-9a-fA-F:.]+\]|[0-9.]+):)?([0-9]{1,5}):"
    r"(?:([^/:]+)/)?([A-Za-z0-9._-]{1,127}):([0-9]{1,5})(?:/(tcp|udp))?"
)


def _forward(value: object) -> PortForward:
    match = _FORM.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise BadValue(
            f"{shown(value)} is not a port and where it leads",
            'write [HOST:]PORT:[OWNER/]DEVICE:PORT[/udp], such as "8080:eth0:80"',
        )
    host, port, owner, device, target, protocol = match.groups()
    for each in (port, target):
        if not 0 < int(each) < 65_536:
            raise BadValue(f"{shown(value)} names port {each}, and ports go from 1 to 65535")
    try:
        address = ipaddress.ip_address(host.strip("[]") if host else "127.0.0.1")
    except ValueError as error:
        raise BadValue(f"{shown(value)} names {shown(host)}, which is no address") from error
    if address.version == 6 and address.is_loopback:
        # Linux lets no packet from ::1 leave by another interface, translated or not.
        raise BadValue(
            f"{shown(value)}: nothing that came to ::1 can be led on",
            "take 127.0.0.1, or another address of this machine",
        )
    whose = str(OWNER.read(owner)) if owner else f"uid:{os.geteuid()}"
    return PortForward(address, int(port), whose, device, int(target), protocol == "udp")


FORWARD = Kind(_forward)
FORWARDS = Kind(_forward, many=True)
