"""The way out: a page of this machine's own, fetched by a stack through the server's gateway.

The web server is outside the virtual network, on an address of this machine; so nothing leaves it,
and no other machine is needed.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

from hypervisor.demo.checks import Check
from hypervisor.demo.stage import GATEWAY, Stage
from hypervisor.demo.traffic import fetch, make_page, serve_page
from hypervisor.gateway.obstacles import obstacle

#: Where a packet would leave this machine for: addresses of documentation (RFC 5737, RFC 3849).
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


@dataclass(frozen=True, slots=True)
class Outside:
    """A way out that can be had: ``host`` is this machine's address that a page will be at."""

    host: str

    @property
    def gateway(self) -> str:
        """The gateway's address of the same version of IP, with its prefix."""
        version = 6 if ":" in self.host else 4
        return str(next(each for each in GATEWAY if each.version == version))


def find_outside() -> Outside | str:
    """Return a place for a page on this machine, or why there is no way out of the network here."""
    if why := obstacle():
        return why
    for family, elsewhere in _ELSEWHERE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((elsewhere, 9))  # of UDP: nothing is sent, the kernel chooses a source
            host = asking.getsockname()[0]
            if not host.startswith("fe80:"):
                return Outside(host)
    return "this machine has no address that is not its own alone"


def check_outside(stage: Stage, outside: Outside, client: str) -> Check:
    """Serve a page outside and fetch it inside the namespace of ``client``."""
    page = make_page()
    family = socket.AF_INET6 if ":" in outside.host else socket.AF_INET
    with socket.create_server((outside.host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        serving = stage.family.ask(stage.users.server, lambda _ready: serve_page(listener, page))
        status, body, seconds = stage.inside(client, lambda: fetch(outside.host, "/", port))
        serving.answer()
    equal = body == page
    return Check(
        f"web page from outside, fetched by {client}",
        f"HTTP 200, {len(page):,} bytes, equal",
        f"HTTP {status}, {len(body):,} bytes, {'equal' if equal else 'different'}, "
        f"{seconds * 1000:.0f} ms",
        status == 200 and equal,
    )
