"""Lending messages: good ones, and every way of getting one wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hypervisor import errors
from hypervisor.errors import DeviceError
from hypervisor.mach.tickets import LIFETIME_S
from hypervisor.requests import EventKind
from tests.helpers.kernel_objects import EXPERIMENTAL, a_fresh_uid, as_uid, lent_tap
from tests.helpers.loops import on_both_loops
from tests.helpers.service import (
    Client,
    begun,
    frame,
    refused_with,
    serving,
    watching,
)


def lend(node: str, message: bytes, descriptors: list[int]) -> str:
    """Send one lending message and return the line that answers it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(node)
        socket.send_fds(sock, [message], descriptors)
        with sock.makefile("r") as answers:
            return "".join(answers)


async def lending(node: str, ticket: str, *descriptors: int) -> str:
    message = b"machdev-lend/1 " + ticket.encode() + b"\n"
    return await asyncio.to_thread(lend, node, message, list(descriptors))


def says(answer: str, kind: type[DeviceError]) -> bool:
    return answer.startswith(f"error {kind.code} {kind.reason} ") and answer.endswith("\n")


async def offered(client: Client, name: str = "eth") -> tuple[str, bytes, bytes]:
    """Open a device; return a ticket for it, its port and its MAC."""
    opened = await client.open(name)
    offer = await client.call("DeviceAttach", port=opened.port, kind="LINK_KIND_TAP")
    return offer.ticket, opened.port, opened.mac_address


@contextlib.contextmanager
def a_pipe() -> Iterator[tuple[int, Callable[[], bool]]]:
    """Yield the writing end of a pipe, and what tells whether it is open nowhere else."""
    reading, writing = os.pipe()

    def closed() -> bool:
        os.close(writing)
        return os.read(reading, 1) == b""

    try:
        yield writing, closed
    finally:
        os.close(reading)


@on_both_loops
async def test_a_lent_tap_carries_the_devices_frames(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        events = await begun(watching(client))
        ticket, _port, mac = await offered(client)
        peer = await client.open("peer")
        held = client.read(peer.port)
        with lent_tap(mac=mac) as tap, tap.packet_socket() as far:
            assert await lending(it.node, ticket, tap.fd) == "ok\n"
            while (await events.read()).event.kind != EventKind.LINK_UP:
                pass
            sent = frame(mac, peer.mac_address, b"out of the tap")
            assert sent[12:14] == EXPERIMENTAL.to_bytes(2, "big")
            far.send(sent)
            assert (await held).data == sent
            answer = frame(peer.mac_address, mac, b"into the tap")
            await client.write(peer.port, answer)
            assert await asyncio.to_thread(far.recv, 2000) == answer


@on_both_loops
@pytest.mark.parametrize(
    "message",
    [
        b"machdev-lend/1 \n",
        b"machdev-lend/1 " + b"0" * 31 + b"\n",
        b"machdev-lend/1 " + b"0" * 32,
        b"machdev-lend/1 " + b"0" * 32 + b"\n\n",
        b"machdev-lend/1 " + b"G" * 32 + b"\n",
        b"machdev-lend/1 " + b"\xff" * 5000,
    ],
)
async def test_a_misshapen_message_is_refused_and_its_descriptor_closed(
    tmp_path: Path, message: bytes
) -> None:
    async with serving(tmp_path) as it:
        with a_pipe() as (descriptor, closed):
            answer = await asyncio.to_thread(lend, it.node, message, [descriptor])
            assert says(answer, errors.BadArguments)
            assert closed()


@on_both_loops
async def test_no_descriptor_is_too_few(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        ticket, *_ = await offered(await it.client())
        answer = await lending(it.node, ticket)
        assert says(answer, errors.BadArguments)
        assert "none" in answer


@on_both_loops
@pytest.mark.parametrize("count", [2, 3, 200])
async def test_several_descriptors_are_too_many_and_all_are_closed(
    tmp_path: Path, count: int
) -> None:
    async with serving(tmp_path) as it:
        ticket, *_ = await offered(await it.client())
        with a_pipe() as (descriptor, closed):
            answer = await lending(it.node, ticket, *[descriptor] * count)
            assert says(answer, errors.BadArguments)
            assert "several" in answer
            assert closed()


@on_both_loops
async def test_a_wrong_ticket_is_no_destination(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        with a_pipe() as (descriptor, closed):
            assert says(await lending(it.node, "0" * 32, descriptor), errors.InvalidDest)
            assert closed()


@on_both_loops
async def test_a_pipe_is_no_tap_and_uses_its_ticket_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        ticket, *_ = await offered(await it.client())
        with a_pipe() as (descriptor, closed):
            assert says(await lending(it.node, ticket, descriptor), errors.InvalidArgument)
            assert says(await lending(it.node, ticket, descriptor), errors.InvalidDest)
            assert closed()


@on_both_loops
async def test_a_ticket_is_good_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        ticket, _port, mac = await offered(await it.client())
        with lent_tap(mac=mac) as tap:
            assert await lending(it.node, ticket, tap.fd) == "ok\n"
            assert says(await lending(it.node, ticket, tap.fd), errors.InvalidDest)


@on_both_loops
async def test_a_ticket_of_a_closed_port_is_no_destination(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        ticket, port, _mac = await offered(client)
        await client.call("DeviceClose", port=port)
        with a_pipe() as (descriptor, closed):
            assert says(await lending(it.node, ticket, descriptor), errors.InvalidDest)
            assert closed()


@on_both_loops
async def test_a_ticket_expires(tmp_path: Path) -> None:
    skipped_s = 0.0
    clock = asyncio.get_running_loop().time
    async with serving(tmp_path, clock=lambda: clock() + skipped_s) as it:
        ticket, *_ = await offered(await it.client())
        skipped_s = LIFETIME_S + 1
        with a_pipe() as (descriptor, closed):
            assert says(await lending(it.node, ticket, descriptor), errors.InvalidDest)
            assert closed()


@on_both_loops
async def test_a_ticket_is_of_its_network_only(tmp_path: Path) -> None:
    async with serving(tmp_path, networks=("net0", "net1")) as it:
        ticket, *_ = await offered(await it.client())
        with a_pipe() as (descriptor, closed):
            answer = await lending(str(tmp_path / "net1"), ticket, descriptor)
            assert says(answer, errors.InvalidDest)
            assert closed()


if os.geteuid() == 0:  # Only root can be two owners.

    @on_both_loops
    async def test_a_stolen_ticket_is_no_destination_and_stays_good(open_path: Path) -> None:
        async with serving(open_path) as it:
            ticket, _port, mac = await offered(await it.client())
            message = b"machdev-lend/1 " + ticket.encode() + b"\n"
            with lent_tap(mac=mac) as tap:
                thief = a_fresh_uid()
                answer = await asyncio.to_thread(
                    as_uid, thief, lambda: lend(it.node, message, [tap.fd])
                )
                assert says(answer, errors.InvalidDest)
                assert await lending(it.node, ticket, tap.fd) == "ok\n"


@on_both_loops
async def test_reads_of_a_port_with_a_link_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        ticket, port, mac = await offered(client)
        with lent_tap(mac=mac) as tap:
            assert await lending(it.node, ticket, tap.fd) == "ok\n"
            await refused_with(client.read(port), errors.InvalidOperation)
