"""Each row of what GNU Mach answered, asked of the real server over gRPC.

A row is answered alike, or as ``tests/helpers/oracle.py`` says, with a reason. The table for people
is ``docs/device-defs.md``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from machdev.v1 import ports_pb2

from hypervisor.errors import D_NOWAIT, D_READ, D_WRITE
from hypervisor.mach.policy import DevicePolicy
from tests.helpers.mach_msg import raw_message
from tests.helpers.oracle import CARD, DEVIATIONS, ORACLE, ROWS, UNAUTHENTICATED, expected
from tests.helpers.request_stream import Requests
from tests.helpers.service import BROADCAST, Client, Served, serving

NET_STATUS, NET_ADDRESS, NET_FLAGS, DEV_GET_SIZE = 0x6E0001, 0x6E0002, 0x6E0004, 0
#: NETF: EQ without pushing anything first, so that it pops two.
EQ_NOPUSH, NETF_IN = 1 << 10, 1


class Bench:
    """A client with the card open, as the task that asked GNU Mach had it."""

    def __init__(self, served: Served, client: Client, port: bytes) -> None:
        self.served, self.client, self.port = served, client, port

    def open(self, name: str) -> Any:
        return self.client.call("DeviceOpen", name=name, mode=D_READ | D_WRITE)

    def status(self, flavor: int, room: int) -> Any:
        return self.client.call("DeviceGetStatus", port=self.port, flavor=flavor, status_count=room)

    def read(self, routine: str) -> Any:
        return self.client.call(routine, port=self.port, mode=D_NOWAIT, bytes_wanted=100)

    def write(self, size: int, routine: str = "DeviceWrite") -> Any:
        data = (BROADCAST + CARD + b"\x88\xb5").ljust(size, b"\0")
        return self.client.call(routine, port=self.port, data=data)

    def close(self) -> Any:
        return self.client.call("DeviceClose", port=self.port)

    async def after_close(self, again: Callable[[], Awaitable[object]]) -> object:
        await self.close()
        return await again()

    async def filter(self, *words: int) -> object:
        receive = await self.client.receive_port()
        return await self.client.call(
            "DeviceSetFilter", port=self.port, receive_port=receive, filter=words
        )

    async def past_the_door(self) -> object:
        stranger = await self.served.client(f"{self.served.private}/grpc")
        return await stranger.call("DeviceOpen", name="eth0", mode=D_READ)

    async def unknown_routine(self) -> object:
        """A request of DeviceRequests without a routine: where gRPC has numbers at all."""
        asked = Requests(self.client)
        reply = await asked.ask(asked.request())
        return reply.error.mach_return_code


#: How each row is asked here. Rows of one kind are asked once for each size that they name.
CALLS: dict[str, list[Callable[[Bench], Awaitable[object]]]] = {
    "device_open on a port that is not the master device port": [lambda b: b.past_the_door()],
    "device_open(name='nosuch0')": [lambda b: b.open("nosuch0")],
    "device_open(name='eth0', mode=D_READ|D_WRITE)": [lambda b: b.open("eth1")],
    "device_open(name='eth0') a second time": [lambda b: b.open("eth0")],
    "device_get_status(NET_STATUS, room 1024)": [lambda b: b.status(NET_STATUS, 1024)],
    "device_get_status(NET_STATUS, room 1)": [lambda b: b.status(NET_STATUS, 1)],
    "device_get_status(NET_ADDRESS, room 1024)": [lambda b: b.status(NET_ADDRESS, 1024)],
    "device_get_status(NET_FLAGS, room 1024)": [lambda b: b.status(NET_FLAGS, 1024)],
    "device_get_status(flavor 12345)": [lambda b: b.status(12345, 1024)],
    "device_get_status(DEV_GET_SIZE)": [lambda b: b.status(DEV_GET_SIZE, 2)],
    "device_read(100)": [lambda b: b.read("DeviceRead")],
    "device_read_inband(100)": [lambda b: b.read("DeviceReadInband")],
    "device_map": [lambda b: b.client.call("DeviceMap", port=b.port, size=4096)],
    "device_write_inband, any length": [
        lambda b: b.write(14, "DeviceWriteInband"),
        lambda b: b.write(128, "DeviceWriteInband"),
    ],
    "device_write 14 bytes": [lambda b: b.write(14)],
    "device_write 60 bytes": [lambda b: b.write(60)],
    "device_write 1514 bytes": [lambda b: b.write(1514)],
    "device_write 1515, 1600 or 4000 bytes": [
        lambda b: b.write(1515),
        lambda b: b.write(1600),
        lambda b: b.write(4000),
    ],
    "device_close": [lambda b: b.close()],
    "device_get_status(NET_STATUS) after device_close": [
        lambda b: b.after_close(lambda: b.status(NET_STATUS, 1024))
    ],
    "device_close again": [lambda b: b.after_close(b.close)],
    "message id 2806 with no arguments": [lambda b: b.client.call("DeviceOpenNew")],
    "message id 2899": [lambda b: b.unknown_routine()],
    "device_get_status on a dead name": [
        lambda b: b.client.call("DeviceGetStatus", port=bytes(16), flavor=NET_STATUS)
    ],
    "device_set_filter without NETF_IN and NETF_OUT in word 0": [lambda b: b.filter(0)],
    "device_set_filter, NETF program that pops more than it pushed": [
        lambda b: b.filter(NETF_IN, *[EQ_NOPUSH] * 40)
    ],
}


async def code_of(call: Awaitable[object]) -> int | str:
    """Return the Mach code that a call ended with; the status's name if there is none."""
    try:
        answer = await call
    except aio.AioRpcError as error:
        code = dict(error.trailing_metadata() or ()).get("mach-return-code")
        return error.code().name if code is None else int(code)
    return answer if isinstance(answer, int) else 0


async def ask(folder: Path, question: Callable[[Bench], Awaitable[Any]]) -> Any:
    """Ask one question of a server of its own, where the card is the owner's eth0."""
    policy = DevicePolicy(f"uid:{os.geteuid()}", "eth0", mac=CARD)
    async with serving(folder, policies=(policy,)) as served:
        client = await served.client()
        await client.attach()
        return await question(Bench(served, client, (await client.open("eth0")).port))


@pytest.mark.parametrize("call", ROWS)
def test_each_row_is_answered_as_documented(call: str, tmp_path: Path) -> None:
    async def question(bench: Bench) -> None:
        for each in CALLS[call]:
            assert await code_of(each(bench)) == expected(call)

    asyncio.run(ask(tmp_path, question))


def test_every_row_is_asked_and_every_deviation_is_one() -> None:
    assert CALLS.keys() == ROWS.keys()
    for call, (code, reason) in DEVIATIONS.items():
        assert ROWS[call]["mach_code"] != code, f"{call} is no deviation"
        assert reason
    assert [call for call in ROWS if expected(call) == UNAUTHENTICATED]


def test_status_words_are_those_of_the_card_but_for_the_flags(tmp_path: Path) -> None:
    row = ROWS["device_get_status(NET_STATUS, room 1024)"]

    async def question(bench: Bench) -> list[int]:
        return list((await bench.status(NET_STATUS, 1024)).status)

    words = asyncio.run(ask(tmp_path, question))
    assert len(words) == row["count"]
    # A virtual NIC can broadcast and multicast too: UP BROADCAST RUNNING MULTICAST.
    assert row["words"][5] == 0x41
    assert words[5] == 0x1043
    assert words[:5] + words[6:] == row["words"][:5] + row["words"][6:]


def test_address_words_are_those_of_the_card(tmp_path: Path) -> None:
    row = ROWS["device_get_status(NET_ADDRESS, room 1024)"]

    async def question(bench: Bench) -> list[int]:
        return list((await bench.status(NET_ADDRESS, 1024)).status)

    assert asyncio.run(ask(tmp_path, question)) == row["words"]


def test_writes_report_all_bytes(tmp_path: Path) -> None:
    async def question(bench: Bench) -> list[int]:
        return [(await bench.write(size)).bytes_written for size in (14, 60, 1514)]

    written = asyncio.run(ask(tmp_path, question))
    assert written == [
        ROWS[f"device_write {size} bytes"]["bytes_written"] for size in (14, 60, 1514)
    ]


def test_a_second_open_has_a_port_of_its_own(tmp_path: Path) -> None:
    async def question(bench: Bench) -> tuple[bytes, bytes, bytes]:
        again = await bench.open("eth0")
        return bench.port, again.port, again.mac_address

    first, second, mac = asyncio.run(ask(tmp_path, question))
    assert first != second
    assert mac == CARD


def test_net_rcv_msg_is_laid_out_as_the_kernels(tmp_path: Path) -> None:
    layout = ORACLE["net_rcv_msg"]
    sizes = layout["for_a_200_byte_frame"]

    async def question(bench: Bench) -> ports_pb2.NetRcvMsg:
        client = bench.client
        receive = await client.receive_port()
        sender = await client.open("eth1")
        await client.call(
            "DeviceSetFilter", port=bench.port, receive_port=receive, filter=[NETF_IN]
        )
        stream = client.port_call("PortReceive", port=receive)
        data = (CARD + sender.mac_address + b"\x08\x00").ljust(200, b"\x5a")
        await client.write(sender.port, data)
        response = await stream.read()
        stream.cancel()
        message: ports_pb2.NetRcvMsg = response.messages[0].net_rcv_msg
        return message

    raw = raw_message(asyncio.run(ask(tmp_path, question)))
    words = [int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw), 4)]
    assert words[0] == int(layout["msgh_bits"], 16)
    assert words[1] == len(raw) == sizes["msgh_size"]
    assert words[5] == layout["msgh_id"]
    assert words[6] == int(sizes["header_type"], 16)
    assert words[23] == int(sizes["packet_type"], 16)
    assert words[24] & 0xFFFF == sizes["packet_header"]["length"]
    assert words[24] >> 16 == 0x0008
    assert raw[28:42] == CARD + raw[34:40] + b"\x08\x00"
    assert raw[100:286] == b"\x5a" * 186
