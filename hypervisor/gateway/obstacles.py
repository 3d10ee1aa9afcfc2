"""What a machine lacks for a gateway, found out without starting one."""

from __future__ import annotations

import os

from hypervisor.kernel.netlink import Netlink
from hypervisor.kernel.tools import find_tool

#: Programs a gateway needs, and Debian's packages of them.
TOOLS = {"nft": "nftables", "pasta": "passt"}
_PACKAGES = {**TOOLS, "dnsmasq": "dnsmasq-base"}


def missing_tool(name: str) -> str:
    """Return how to get a program that a gateway needs, "" if it is there."""
    if find_tool(name) is not None:
        return ""
    return f"{name} is not installed (Debian: apt install {_PACKAGES[name]})"


def obstacle() -> str:
    """Return why there can be no gateway here, "" if none of the usual reasons is there.

    What forbids namespaces and TAPs is the business of :mod:`hypervisor.kernel.preflight`.
    """
    for name in TOOLS:
        if lacking := missing_tool(name):
            return lacking
    if os.statvfs("/proc/sys/net").f_flag & os.ST_RDONLY:
        return "/proc/sys is mounted read-only, as containers do: no namespace can forward"
    with Netlink() as net:
        if not net.default_routes():
            return "this machine has no default route to follow"
    return ""
