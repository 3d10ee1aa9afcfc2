"""What a device sends that nobody looks into reaches one with an address by a known flow.

Two stacks of Linux on TAPs, as a gateway and a client are: the one's policy is ``guard = "mac"``,
the other has an address and the full guard. Everything runs in this process, so that the flow can
be looked at.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from hypervisor.links.data_path import DataPath
from hypervisor.links.lent_tap import LentTap
from hypervisor.links.outlet import Outlet
from hypervisor.mach.policy import DevicePolicy
from hypervisor.network import Network, NetworkOptions
from hypervisor.nic import Nic
from hypervisor.runtime import Runtime
from tests.helpers.data_paths import PATHS
from tests.helpers.kernel_objects import Namespace, lent_tap

GATEWAY, CLIENT, ASTRAY = "10.0.0.254", "10.0.0.2", "10.0.0.3"
PORT = 4000
POLICIES = (
    DevicePolicy("op", "gw", guard="mac", trusted=True),
    DevicePolicy("user", "eth0", addresses=(CLIENT,), trusted=True),
)


@dataclass(frozen=True)
class Ground:
    """A network of two stacks: where they are, and what the network knows of them."""

    network: Network
    gateway: Nic
    client: Nic
    sender: socket.socket
    receiver: socket.socket

    def carried(self) -> int:
        """Return how many frames the gateway's flow to the client has carried since the last time.

        In compiled code a frame is counted when it is written, which may be after it was heard.
        """
        (handle,) = self.gateway.handles
        table = self.network.flows_of(handle)
        flow = table[self.client.device.mac + self.gateway.device.mac]
        assert flow.guard is None
        assert flow.templates is not None
        if table.compiled is not None:
            return sum(frames for one, frames, *_ in table.compiled.fold() if one is flow)
        frames, flow.frames = flow.frames, 0
        return frames


def udp_socket(space: Namespace, address: str) -> socket.socket:
    def make() -> int:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, PORT))
        return sock.detach()

    made = socket.socket(fileno=space.descriptor(make))
    made.setblocking(False)
    return made


@contextmanager
def ground(path: str) -> Iterator[tuple[Ground, Runtime]]:
    options = NetworkOptions(
        random_bytes=os.urandom, secret=b"secret" * 6, guard="full", policies=POLICIES
    )
    network = Network(options)
    runtime = Runtime([network], path=DataPath(compiled=path == "compiled"))
    outlets: list[Outlet] = []
    with ExitStack() as stack:
        sockets = []
        for policy, address in zip(POLICIES, (GATEWAY, CLIENT), strict=True):
            outlet = runtime.open_outlet(network.name, policy.owner, policy.name, "tap", "a test")
            lent = stack.enter_context(lent_tap(mac=outlet.mac, addresses=[f"{address}/24"]))
            outlet.plug(LentTap.adopt(lent.give(), outlet.mac))
            sockets.append(stack.enter_context(udp_socket(lent.namespace, address)))
            outlets.append(outlet)
            if address == GATEWAY:
                space, name = lent.namespace, lent.name
        for address in (CLIENT, ASTRAY):
            neighbour = ("ip", "neigh", "add", address, "lladdr", outlets[1].mac.hex(":"))
            space.run(*neighbour, "dev", name)
        gateway, client = network.nics.values()
        yield Ground(network, gateway, client, *sockets), runtime


async def said(made: Ground, text: bytes) -> None:
    """Send a datagram to the client and wait for it there."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendto(made.sender, text, (CLIENT, PORT))
    assert await asyncio.wait_for(loop.sock_recv(made.receiver, 2048), 20) == text


@pytest.mark.parametrize("path", PATHS)
def test_a_flow_to_a_device_with_an_address_is_known_and_nothing_else_is_of_it(path: str) -> None:
    async def talk(made: Ground) -> None:
        for number in range(20):
            await said(made, b"%d" % number)
        until, carried = time.monotonic() + 20, 0
        while (carried := carried + made.carried()) < 20 and time.monotonic() < until:
            os.sched_yield()
        assert carried == 20
        for number in range(5):
            made.sender.sendto(b"%d" % number, (ASTRAY, PORT))
            await said(made, b"and for you")
        (handle,) = made.gateway.handles
        assert handle.open.sent_drops == {"not_addressed": 5}
        assert made.network.engine.discards["not_addressed"] == 5
        # In order, so none of the astray ones can come yet.
        with pytest.raises(BlockingIOError):
            made.receiver.recv(2048)

    async def main() -> None:
        with ground(path) as (made, runtime):
            try:
                await talk(made)
            finally:
                await runtime.stop()

    asyncio.run(main())
