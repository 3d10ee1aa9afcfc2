"""What the server counted, beside what the kernels in the namespaces counted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from hypervisor.demo.checks import Check
from hypervisor.demo.stage import INTERFACE, Stage, set_down
from hypervisor.kernel.netlink import LinkStats, Netlink
from pfinet_client.blocking import Client

#: How long the last frames may be under way after the links are down, in s.
_SETTLE_S = 3.0


@dataclass(frozen=True, slots=True)
class Counted:
    """Frames and bytes in both directions, from the stack's point of view."""

    tx_frames: int
    tx_bytes: int
    rx_frames: int
    rx_bytes: int


@dataclass(frozen=True, slots=True)
class ServerCount:
    """What the server says of one device."""

    counted: Counted
    tx_drops: Mapping[str, int]
    rx_drops: Mapping[str, int]


def server_counters(stage: Stage) -> dict[bytes, ServerCount]:
    """Return what the server counted, by MAC; asked as its operator, who sees all devices."""
    node = str(stage.node)

    def look() -> dict[bytes, ServerCount]:
        with Client(node) as client:
            return {
                device.mac_address: ServerCount(
                    Counted(device.tx_frames, device.tx_bytes, device.rx_frames, device.rx_bytes),
                    {drop.reason: drop.copies for drop in device.tx_drops},
                    {drop.reason: drop.copies for drop in device.rx_drops},
                )
                for device in client.network.devices()
            }

    return stage.as_user(stage.users.server, look)


def kernel_counters(stage: Stage, name: str) -> Counted:
    """Return what `ip -s link` shows inside the namespace of a stack."""

    def look() -> LinkStats:
        with Netlink() as net:
            return net.stats(INTERFACE)

    stats = stage.inside(name, look)
    return Counted(stats.tx_packets, stats.tx_bytes, stats.rx_packets, stats.rx_bytes)


def check_counters(stage: Stage, macs: Mapping[str, bytes]) -> list[Check]:
    """Set all links down and compare, once the last frames have arrived or gone."""
    for name in macs:
        stage.inside(name, set_down)
    deadline = time.monotonic() + _SETTLE_S
    while True:
        rows = _compare(stage, macs)
        if all(row.ok for row in rows) or time.monotonic() > deadline:
            return rows


def _compare(stage: Stage, macs: Mapping[str, bytes]) -> list[Check]:
    kernel = {name: kernel_counters(stage, name) for name in macs}
    server = server_counters(stage)
    nobody = ServerCount(Counted(0, 0, 0, 0), {}, {})
    rows = []
    for name, mac in macs.items():
        said, seen = server.get(mac, nobody).counted, kernel[name]
        sent = (said.tx_frames, said.tx_bytes), (seen.tx_frames, seen.tx_bytes)
        got = (said.rx_frames, said.rx_bytes), (seen.rx_frames, seen.rx_bytes)
        rows.append(_row(f"frames {name} sent", *sent))
        rows.append(_row(f"frames {name} got", *got))
    return rows


def _row(what: str, server: tuple[int, int], kernel: tuple[int, int]) -> Check:
    return Check(
        f"{what}, links down",
        f"server: {server[0]:,} frames, {server[1]:,} B",
        f"ip -s link: {kernel[0]:,} frames, {kernel[1]:,} B",
        server == kernel,
    )
