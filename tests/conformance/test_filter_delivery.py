"""GNU Mach's filter vectors as they were taken: set on a device, asked by sending frames from it.

And what the vectors lack, from the description of Mach: NETF_IN, the order of priorities and
NET_HI_PRI, a port's qlimit, filters with keys. The frames are odd, so the device is a trunk.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hypervisor.errors import InvalidOperation
from hypervisor.infos import Missing, NetMessage
from hypervisor.mach.policy import DevicePolicy
from hypervisor.requests import SetFilter
from tests.helpers.core import Port, World
from tests.helpers.filter_programs import NETF_IN, accept, match_imm, netf_words
from tests.helpers.receiving import Mailer, mailer

VECTORS = json.loads(
    (Path(__file__).parent / "data" / "gnumach-filter-vectors.json").read_text("ascii")
)
FRAMES = [bytes.fromhex(frame) for frame in VECTORS["frames"]]
PROGRAMS: list[dict[str, Any]] = VECTORS["programs"]
UNDEFINED = "undefined"


def trunk(name: str = "eth0") -> tuple[World, Port]:
    world = World(options={"policies": (DevicePolicy("uid:1", name, trunk=True),)})
    return world, world.open(name, "uid:1")


def set_filter(
    port: Port, words: Any, priority: int = 0, to: Mailer | None = None, qlimit: int = 16
) -> Mailer:
    world = port.world
    to = to or mailer(world, port.caller, qlimit)
    world.call(SetFilter(world.number(), port.caller, port.port, to.name, priority, words))
    return to


@pytest.mark.parametrize("at", range(len(PROGRAMS)))
def test_a_program_delivers_what_the_kernel_delivered(at: int) -> None:
    program = PROGRAMS[at]
    world, port = trunk()
    if program["return_code"]:
        with pytest.raises(InvalidOperation) as refusal:
            set_filter(port, program["words"])
        assert refusal.value.code == program["return_code"]
        return
    box = set_filter(port, program["words"])
    for frame, cell in zip(FRAMES, program["delivered_payload_bytes"], strict=True):
        written = world.written(port.write(frame))
        assert written.bytes_written == len(frame)
        if cell == UNDEFINED:
            box.take()
            continue
        messages = box.take()
        assert len(messages) == bool(cell)
        for message in messages:
            assert isinstance(message, NetMessage)
            assert message.header == frame[:14]
            assert int.from_bytes(message.packet[:2], "little") == len(frame) - 14 + 4
            assert message.packet[2:4] == frame[12:14]
            assert message.packet[4:] == frame[14 : 14 + cell]
    world.audit()


def test_netf_in_sees_what_arrives_and_netf_out_what_was_sent() -> None:
    world, port = trunk()
    other = world.open("eth1", "uid:2")
    arriving = set_filter(other, netf_words())
    assert set_filter(port, netf_words(directions=NETF_IN)).take() == []
    port.write(port.frame(other))
    assert len(arriving.take()) == 1


def test_priorities_and_net_hi_pri_decide_who_sees_a_frame() -> None:
    _, port = trunk()
    low, high = set_filter(port, accept(directions=2), 0), set_filter(port, accept(1, 2), 99)
    port.write(port.frame(bytes(6)))
    assert [len(box.take()) for box in (low, high)] == [1, 1]
    keeps = set_filter(port, accept(1, 2), 100)
    port.write(port.frame(bytes(6)))
    assert [len(box.take()) for box in (low, high, keeps)] == [0, 0, 1]


@pytest.mark.parametrize("qlimit", [0, 16])
def test_a_full_port_drops_silently_and_the_sender_is_not_told(qlimit: int) -> None:
    _, port = trunk()
    box = set_filter(port, accept(directions=2), qlimit=qlimit)
    number = port.write([port.frame(bytes(6), b"%d" % at) for at in range(20)])
    assert port.world.written(number).drops == {"no_receiver": 20}
    *frames, last = box.take()
    assert len(frames) == (qlimit or 5)
    assert last == Missing(box.name, 20 - len(frames))


def test_filters_with_keys_get_what_their_keys_say() -> None:
    world, port = trunk()
    other = world.open("eth1", "uid:2")
    boxes = {key: set_filter(other, match_imm(14, key, 30)) for key in range(0x4100, 0x4120)}
    for key in (0x4100, 0x411F, 0x4120):
        port.write(port.frame(other, key.to_bytes(2, "big")))
    assert {key for key, box in boxes.items() if box.take()} == {0x4100, 0x411F}
