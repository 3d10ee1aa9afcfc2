"""What a lender can do to a TAP after lending it: nothing of it blocks, spins or stays unseen."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop

from hypervisor.kernel import tap
from hypervisor.links.base import LinkGone
from hypervisor.links.lent_tap import MAX_ERRORS, LentTap
from tests.helpers.kernel_objects import BROADCAST, Lent, ethernet, lent_tap, readable

MAC = bytes.fromhex("525400000001")
FAR_MAC = bytes.fromhex("525400000002")
FRAME = ethernet(MAC, FAR_MAC, b"into the namespace".ljust(46))
PLENTY = 1 << 20
TUNSETSNDBUF = 0x400454D4

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture
def lent() -> Iterator[Lent]:
    with lent_tap(mac=MAC) as made:
        yield made


@pytest.fixture
def link(lent: Lent) -> Iterator[LentTap]:
    # The lender keeps a copy, as a hostile one would.
    made = LentTap.adopt(os.dup(lent.fd), MAC)
    yield made
    made.close()


def delete(lent: Lent) -> None:
    lent.namespace.run("ip", "link", "del", lent.name)


# --- O_NONBLOCK and the send buffer -------------------------------------------------------------


def test_reading_never_blocks_although_the_lender_made_it_blocking(
    lent: Lent, link: LentTap
) -> None:
    os.set_blocking(lent.fd, True)
    assert link.read_burst(64, PLENTY) == []
    with lent.packet_socket() as far:
        far.send(ethernet(BROADCAST, MAC, b"one"))
    assert len(link.read_burst(64, PLENTY)) == 1


def test_writing_never_blocks_although_the_send_buffer_is_full(lent: Lent, link: LentTap) -> None:
    # A shaper of the lender's keeps every frame, each is charged to the TAP's send buffer until it
    # is let go, and that buffer he made tiny: a plain blocking write() would never return.
    for command in (
        "ip link add br0 type bridge",
        "ip link add held0 type veth peer name held1",
        "ip link set held0 master br0",
        "ip link set eth0 master br0",
        "tc qdisc add dev held0 root tbf rate 8bit burst 1600 limit 10000000",
        "ip link set held0 up",
        "ip link set held1 up",
        "ip link set br0 up",
    ):
        lent.namespace.run(*command.split())
    fcntl.ioctl(lent.fd, TUNSETSNDBUF, struct.pack("i", 1))
    os.set_blocking(lent.fd, True)
    to_be_held = ethernet(FAR_MAC, bytes.fromhex("525400000003"), bytes(100))
    outcomes = [link.write(to_be_held, 0) for _ in range(3 * MAX_ERRORS)]
    # The shaper lets a few pass before its bucket is empty; a full buffer never ends the link.
    assert outcomes[0] is None
    assert set(outcomes[-2 * MAX_ERRORS :]) == {"link_error"}


# --- changing the offload header ----------------------------------------------------------------


def test_an_absurd_header_size_ends_the_link_after_64_failed_reads(
    lent: Lent, link: LentTap
) -> None:
    tap.set_vnet_header_size(lent.fd, 100_000)
    with lent.packet_socket() as far:
        for _ in range(MAX_ERRORS - 1):
            far.send(ethernet(BROADCAST, MAC, b"unreadable"))
        assert link.read_burst(1024, PLENTY) == []
        far.send(ethernet(BROADCAST, MAC, b"unreadable"))
        with pytest.raises(LinkGone, match=r"64 reads in a row failed .* changed it"):
            link.read_burst(1024, PLENTY)
    assert link.read_error_total == MAX_ERRORS


def test_an_absurd_header_size_ends_the_link_after_64_failed_writes(
    lent: Lent, link: LentTap
) -> None:
    tap.set_vnet_header_size(lent.fd, 100_000)
    outcomes = [link.write(FRAME, 0) for _ in range(MAX_ERRORS - 1)]
    assert outcomes == ["link_error"] * (MAX_ERRORS - 1)
    with pytest.raises(LinkGone, match="64 writes in a row failed"):
        link.write(FRAME, 0)


def test_a_good_frame_in_between_forgives(lent: Lent, link: LentTap) -> None:
    for _ in range(3):
        tap.set_vnet_header_size(lent.fd, 100_000)
        outcomes = {link.write(FRAME, 0) for _ in range(MAX_ERRORS - 1)}
        assert outcomes == {"link_error"}
        tap.set_vnet_header_size(lent.fd, 12)
        assert link.write(FRAME, 0) is None


def test_a_short_frame_is_an_error_and_not_an_end(link: LentTap) -> None:
    assert link.write(b"", 0) == "link_error"
    assert link.write(FRAME[:13], 0) == "link_error"
    assert link.write(FRAME, 0) is None


# --- the interface goes -------------------------------------------------------------------------


def test_alive_tells_without_touching_frames(lent: Lent, link: LentTap) -> None:
    assert link.alive()
    delete(lent)
    assert not link.alive()


def test_a_deleted_tap_is_gone_for_reader_and_writer(lent: Lent, link: LentTap) -> None:
    delete(lent)
    assert readable(link)
    with pytest.raises(LinkGone, match="the TAP eth0 was deleted in its namespace"):
        link.read_burst(64, PLENTY)
    with pytest.raises(LinkGone, match="the TAP eth0 was deleted in its namespace"):
        link.write(FRAME, 0)


def test_whoever_is_told_that_a_tap_is_in_error_finds_it_gone(lent: Lent, link: LentTap) -> None:
    # While the interface is being unregistered it polls as in error, and reads still say EAGAIN.
    # uvloop calls a reader in error once only: that once must not be taken for nothing.
    poll = select.poll()
    poll.register(link, select.POLLIN)
    outcome: object = None
    with ThreadPoolExecutor(1) as others:
        deleting = others.submit(delete, lent)
        while not poll.poll(0):
            continue
        try:
            outcome = link.read_burst(64, PLENTY)
        except LinkGone as error:
            outcome = str(error)
        deleting.result()
    assert outcome == "the TAP eth0 was deleted in its namespace"


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
def test_a_reader_that_follows_the_recipe_learns_of_the_deletion_once(
    lent: Lent, link: LentTap, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def serve() -> list[str]:
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[str] = loop.create_future()
        calls: list[str] = []

        def on_readable() -> None:
            try:
                link.read_burst(64, PLENTY)
            except LinkGone as error:
                loop.remove_reader(link.fileno())
                calls.append(str(error))
                gone.set_result(str(error))

        loop.add_reader(link.fileno(), on_readable)
        await loop.run_in_executor(None, delete, lent)
        await asyncio.wait_for(gone, 5)
        for _ in range(100):
            await asyncio.sleep(0)
        await loop.shutdown_default_executor()
        return calls

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(serve()) == ["the TAP eth0 was deleted in its namespace"]


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
def test_a_deletion_under_load_is_never_missed(
    lent: Lent, link: LentTap, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    far = lent.packet_socket()

    def flood() -> None:
        with far:
            while True:
                try:
                    far.send(ethernet(BROADCAST, MAC, b"load"))
                except OSError:
                    return

    async def serve() -> str:
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[str] = loop.create_future()

        def on_readable() -> None:
            try:
                link.read_burst(64, PLENTY)
            except LinkGone as error:
                loop.remove_reader(link.fileno())
                gone.set_result(str(error))

        def look() -> None:
            # As the runtime does: a loop may call a reader too early, once, and never again.
            if not gone.done():
                on_readable()
                loop.call_later(0.1, look)

        loop.add_reader(link.fileno(), on_readable)
        look()
        await loop.run_in_executor(None, delete, lent)
        answer = await asyncio.wait_for(gone, 30)
        await loop.shutdown_default_executor()
        return answer

    flooder = threading.Thread(target=flood)
    flooder.start()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert "deleted" in runner.run(serve())
    flooder.join()


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
def test_a_deletion_while_the_reader_rests_is_seen_when_it_comes_back(
    lent: Lent, link: LentTap, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        called = asyncio.Event()
        loop.add_reader(link.fileno(), called.set)
        loop.remove_reader(link.fileno())
        await loop.run_in_executor(None, delete, lent)
        loop.add_reader(link.fileno(), called.set)
        await asyncio.wait_for(called.wait(), 5)
        loop.remove_reader(link.fileno())
        await loop.shutdown_default_executor()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve())
    with pytest.raises(LinkGone):
        link.read_burst(64, PLENTY)


# --- the interface goes down --------------------------------------------------------------------


def test_a_tap_that_is_down_drops_and_comes_back(lent: Lent, link: LentTap) -> None:
    lent.namespace.run("ip", "link", "set", lent.name, "down")
    outcomes = {link.write(FRAME, 0) for _ in range(2 * MAX_ERRORS)}
    assert outcomes == {"link_down"}
    assert link.alive()
    lent.namespace.run("ip", "link", "set", lent.name, "up")
    assert link.write(FRAME, 0) is None


def test_when_closing_returns_the_interface_is_gone(lent: Lent) -> None:
    link = LentTap.adopt(lent.give(), MAC)
    link.close()
    assert lent.name not in lent.namespace.run("ip", "link").stdout
