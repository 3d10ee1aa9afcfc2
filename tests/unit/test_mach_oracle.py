"""device.defs as a real GNU Mach kernel answered it, row by row, and where we differ on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hypervisor.errors import D_READ, D_WRITE, DeviceError
from hypervisor.mach.devices import DevicePolicy
from hypervisor.requests import GetStatus, Read, Refuse, Write
from tests.helpers.core import Port, World

ORACLE = json.loads((Path(__file__).parent / "data" / "gnumach-oracle.json").read_text())
ROWS: dict[str, dict[str, Any]] = {row["call"]: row for row in ORACLE["calls"]}
CARD = bytes.fromhex("525400123456")
NET_STATUS, NET_ADDRESS, NET_FLAGS, DEV_GET_SIZE = 0x6E0001, 0x6E0002, 0x6E0004, 0


class Bench:
    """A device with the address of the card that the oracle was asked about."""

    def __init__(self) -> None:
        self.world = World(options={"policies": (DevicePolicy("uid:1", "eth0", mac=CARD),)})
        self.port: Port = self.world.open("eth0", "uid:1")

    def status(self, flavor: int, room: int) -> tuple[int, ...]:
        port, world = self.port, self.world
        words: tuple[int, ...] = world.call(
            GetStatus(world.number(), port.caller, port.port, flavor, room)
        )
        return words

    def write(self, size: int, inband: bool = False) -> int:
        port, world = self.port, self.world
        frame = self.port.frame(b"\xff" * 6)[:14].ljust(size, b"\0")
        written = world.call(
            Write(world.number(), port.caller, port.port, 0, [frame], inband=inband)
        )
        return int(written.bytes_written)

    def read(self, wanted: int, inband: bool = False) -> object:
        port, world = self.port, self.world
        return world.call(Read(world.number(), port.caller, port.port, 0x8, wanted, inband=inband))

    def refuse(self, routine: str) -> object:
        port, world = self.port, self.world
        return world.call(Refuse(world.number(), port.caller, port.port, routine))

    def after_close(self, call: Callable[[], object]) -> object:
        self.port.close()
        return call()

    def on_a_dead_name(self) -> object:
        self.port.port = bytes(16)
        return self.status(NET_STATUS, 1024)


#: How each row is asked here. Rows of one kind are asked once for each size that they name.
CALLS: dict[str, list[Callable[[Bench], object]]] = {
    "device_open(name='eth0', mode=D_READ|D_WRITE)": [
        lambda b: b.world.open("eth1", "uid:1", mode=D_READ | D_WRITE)
    ],
    "device_open(name='eth0') a second time": [
        lambda b: b.world.open("eth0", caller=b.port.caller)
    ],
    "device_get_status(NET_STATUS, room 1024)": [lambda b: b.status(NET_STATUS, 1024)],
    "device_get_status(NET_STATUS, room 1)": [lambda b: b.status(NET_STATUS, 1)],
    "device_get_status(NET_ADDRESS, room 1024)": [lambda b: b.status(NET_ADDRESS, 1024)],
    "device_get_status(NET_FLAGS, room 1024)": [lambda b: b.status(NET_FLAGS, 1024)],
    "device_get_status(flavor 12345)": [lambda b: b.status(12345, 1024)],
    "device_get_status(DEV_GET_SIZE)": [lambda b: b.status(DEV_GET_SIZE, 2)],
    "device_read(100)": [lambda b: b.read(100)],
    "device_read_inband(100)": [lambda b: b.read(100, inband=True)],
    "device_map": [lambda b: b.refuse("device_map")],
    "device_write_inband, any length": [lambda b: b.write(60, inband=True)],
    "device_write 14 bytes": [lambda b: b.write(14)],
    "device_write 60 bytes": [lambda b: b.write(60)],
    "device_write 1514 bytes": [lambda b: b.write(1514)],
    "device_write 1515, 1600 or 4000 bytes": [
        lambda b: b.write(1515),
        lambda b: b.write(1600),
        lambda b: b.write(4000),
    ],
    "device_close": [lambda b: b.port.close()],
    "device_get_status(NET_STATUS) after device_close": [
        lambda b: b.after_close(lambda: b.status(NET_STATUS, 1024))
    ],
    "device_close again": [lambda b: b.after_close(b.port.close)],
    "device_get_status on a dead name": [lambda b: b.on_a_dead_name()],
}

#: Rows where we answer something else, with the code we give and the reason.
DEVIATIONS: dict[str, tuple[int, str]] = {
    "device_read(100)": (2501, "served here, as MHVED does; with D_NOWAIT nothing is there"),
    "device_read_inband(100)": (2501, "served here, as MHVED does"),
    "device_write_inband, any length": (0, "served here: a virtual NIC has no reason to refuse"),
    "device_get_status(NET_STATUS) after device_close": (
        0x10000003,
        "closing destroys the port: nothing else would let a task give its device back",
    ),
}

#: Rows about what does not exist here: there is no master device port, since connecting to a node
#: is what gives the right to open, and any good name can be opened.
NOT_HERE = {
    "device_open on a port that is not the master device port",
    "device_open(name='nosuch0')",
}


def ask(call: Callable[[Bench], object]) -> tuple[int, object]:
    try:
        return 0, call(Bench())
    except DeviceError as error:
        return error.code, None


@pytest.mark.parametrize("name", [name for name in ROWS if name not in NOT_HERE])
def test_row(name: str) -> None:
    code, _ = DEVIATIONS.get(name, (ROWS[name]["mach_code"], ""))
    for call in CALLS[name]:
        assert ask(call)[0] == code


def test_every_row_is_asked_or_explained() -> None:
    assert CALLS.keys() | NOT_HERE == ROWS.keys()
    assert not CALLS.keys() & NOT_HERE
    for name, (code, reason) in DEVIATIONS.items():
        assert ROWS[name]["mach_code"] != code, f"{name} is no deviation"
        assert reason


def test_status_words_are_those_of_the_card_but_for_the_flags() -> None:
    row = ROWS["device_get_status(NET_STATUS, room 1024)"]
    words = list(Bench().status(NET_STATUS, 1024))
    assert len(words) == row["count"]
    # A virtual NIC can broadcast and multicast too: UP BROADCAST RUNNING MULTICAST.
    assert row["words"][5] == 0x41
    assert words[5] == 0x1043
    assert words[:5] + words[6:] == row["words"][:5] + row["words"][6:]


def test_address_words_are_those_of_the_card() -> None:
    row = ROWS["device_get_status(NET_ADDRESS, room 1024)"]
    assert list(Bench().status(NET_ADDRESS, 1024)) == row["words"]


def test_writes_report_all_bytes() -> None:
    for size in (14, 60, 1514):
        assert Bench().write(size) == ROWS[f"device_write {size} bytes"]["bytes_written"] == size


def test_a_second_open_has_a_port_of_its_own() -> None:
    # GNU Mach gives the same port again; here each open has its own mode and slots.
    bench = Bench()
    again = bench.world.open("eth0", caller=bench.port.caller)
    assert again.port != bench.port.port
    assert again.mac == bench.port.mac
