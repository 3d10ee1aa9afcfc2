"""A port that outlives its server: pfinet's way with a dead port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hypervisor.errors import InvalidArgument, InvalidDest
from hypervisor.kernel.tap import set_mac
from pfinet_client.client import Client
from pfinet_client.errors import ServerUnavailable
from pfinet_client.reopen import Backoff
from pfinet_client.values import IFF_DEBUG
from tests.helpers.loops import on_both_loops
from tests.helpers.service import frame, serving
from tests.helpers.stray_tap import stray_tap


def no_wait(then: Callable[[float], Awaitable[None]] | None = None) -> Backoff:
    """Return a back-off that waits for nothing but ``then``, which gets each delay."""

    async def sleep(delay_s: float) -> None:
        if then is not None:
            await then(delay_s)

    return Backoff(jitter=0.0, attempts=5, sleep=sleep)


@on_both_loops
async def test_a_call_on_a_dead_port_reopens_the_same_device_and_is_repeated(
    tmp_path: Path,
) -> None:
    waits: list[float] = []

    async def note(delay_s: float) -> None:
        waits.append(delay_s)

    async with serving(tmp_path) as served, Client(served.node) as client:
        port = await client.open_reconnecting("eth0", role="stack", backoff=no_wait(note))
        await port.claim("10.0.0.1")
        await port.set_flags(0x1043 | IFF_DEBUG)
        dead, mac = port.port, port.mac
        await client.close_port(dead)
        assert await port.flags() == 0x1043 | IFF_DEBUG
        assert port.port != dead
        assert (port.name, port.mac) == ("eth0", mac)
        (device,) = await client.network.devices()
        assert list(device.addresses) == ["10.0.0.1"]
        assert waits == [0.1]


@on_both_loops
async def test_a_new_server_is_waited_for_and_all_taken_up_again(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        waits: list[float] = []
        first = serving(tmp_path)
        served = await first.__aenter__()
        client = await stack.enter_async_context(Client(served.node))

        async def at_the_third_a_server_comes(delay_s: float) -> None:
            waits.append(delay_s)
            if len(waits) == 3:
                await stack.enter_async_context(serving(tmp_path))

        backoff = no_wait(at_the_third_a_server_comes)
        port = await client.open_reconnecting("eth0", role="stack", backoff=backoff)
        await port.claim("10.0.0.1")
        tap = stack.enter_context(stray_tap())
        set_mac(tap, port.mac)
        await port.attach_tap(tap)
        await first.__aexit__(None, None, None)
        assert (await port.net_status()).max_packet_size == 1514
        (device,) = await client.network.devices()
        assert (device.link, list(device.addresses)) == ("tap", ["10.0.0.1"])
        assert waits == pytest.approx([0.1, 0.2, 0.4])
        assert client.generation == 2


@on_both_loops
async def test_after_the_last_attempt_the_error_is_raised(tmp_path: Path) -> None:
    served = serving(tmp_path)
    node = (await served.__aenter__()).node
    async with Client(node) as client:
        port = await client.open_reconnecting("eth0", backoff=no_wait())
        await served.__aexit__(None, None, None)
        with pytest.raises(ServerUnavailable, match="no server at"):
            await port.write(frame(port.mac))


@on_both_loops
async def test_two_calls_that_find_it_dead_reopen_it_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        port = await client.open_reconnecting("eth0", backoff=no_wait())
        await client.close_port(port.port)
        await asyncio.gather(*(port.flags() for _ in range(5)))
        (device,) = await client.network.devices()
        assert device.opens == 1


@on_both_loops
async def test_a_failure_while_reopening_leaves_no_open_behind(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        port = await client.open_reconnecting("eth0", backoff=no_wait())
        await port.set_flags(0x1043)
        port._flags = 0x7FFF_FFFF  # which no server takes
        await client.close_port(port.port)
        with pytest.raises(Exception, match="D_INVALID"):
            await port.flags()
        assert await client.network.devices() == []


@on_both_loops
async def test_other_errors_and_closed_ports_are_not_repaired(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        port = await client.open_reconnecting("eth0", backoff=no_wait())
        with pytest.raises(InvalidArgument):
            await port.claim("127.0.0.1")
        await port.close()
        with pytest.raises(InvalidDest):
            await port.flags()


@on_both_loops
async def test_an_address_given_back_is_not_claimed_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        port = await client.open_reconnecting("eth0", backoff=no_wait())
        await port.claim("2001:db8::1")
        await port.unclaim("2001:DB8::1")
        await client.close_port(port.port)
        await port.flags()
        (device,) = await client.network.devices()
        assert list(device.addresses) == []
