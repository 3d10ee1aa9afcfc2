"""Frames that are slotted and pulled together come to the same as one by one."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.engine.audit import audit
from hypervisor.engine.quotas import Limits
from hypervisor.errors import D_READ, D_WRITE
from hypervisor.network import Network, NetworkOptions
from hypervisor.requests import Caller, Completion, CreateTask, OpenDevice, Read, Request, Write

#: Eight TX slots for one receiver, turns of three frames, and a pool that is soon full.
LIMITS = Limits(pool_frames=48, pool_bytes=12_000, tx_slots=32, rx_slots=6, quantum_frames=3)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 1), st.lists(st.integers(60, 900), min_size=1)),
        st.tuples(st.just("read"), st.integers(1, 9), st.just([60])),
        st.tuples(st.just("cancel"), st.integers(0, 9), st.just([60])),
        st.tuples(st.just("wait"), st.integers(1, 60), st.just([60])),
    ),
    max_size=25,
)


class Bench:
    """Two writers and a reader on one network."""

    def __init__(self) -> None:
        self.now = 0.0
        self.number = 0
        self.network = Network(
            NetworkOptions(random_bytes=os.urandom, secret=bytes(48), guard="mac", limits=LIMITS)
        )
        self.log: list[object] = []
        self.writers = [self.open("uid:1", "a"), self.open("uid:2", "b")]
        self.reader = self.open("uid:3", "c")

    def ask(self, request: Request) -> list[Completion]:
        self.network.submit(request, self.now)
        return self.network.take_completions()

    def next(self) -> int:
        self.number += 1
        return self.number

    def open(self, owner: str, name: str) -> tuple[Caller, bytes, bytes]:
        caller = Caller(owner, self.ask(CreateTask(self.next(), owner))[0].result)
        done = self.ask(OpenDevice(self.next(), caller, D_READ | D_WRITE, name))
        return caller, done[0].result.port, done[0].result.mac

    def play(self, kind: str, number: int, sizes: list[int]) -> None:
        if kind == "write":
            caller, port, mac = self.writers[number]
            head = self.reader[2] + mac + b"\x88\xb5"
            frames = [
                (head + bytes((self.number % 256, at % 256))).ljust(size, b"\0")
                for at, size in enumerate(sizes)
            ]
            done = self.ask(Write(self.next(), caller, port, 0, frames))
        elif kind == "read":
            done = self.ask(Read(self.next(), self.reader[0], self.reader[1], 0, 1514, number))
        elif kind == "cancel":
            self.log.append(self.network.cancel(self.number - number, self.now))
            done = self.network.take_completions()
        else:
            self.now += number / 1000
            self.network.tick(self.now)
            done = self.network.take_completions()
        # Names and addresses differ; what is behind them does not.
        for each in done:
            told = [frame[14:] for frame in each.result] if kind_of(each) else each.result
            self.log.append((each.request_id, str(each.error), told))
        self.log.append(audit(self.network.engine))


def kind_of(completion: Completion) -> bool:
    """Tell whether a completion is a read's."""
    return isinstance(completion.result, list)


@given(steps)
@settings(max_examples=150, deadline=None)
def test_in_runs_and_one_by_one(asked: list[tuple[str, int, list[int]]]) -> None:
    together, apart = Bench(), Bench()
    engine = apart.network.engine
    engine._take_slots = lambda sender, queue: None  # type: ignore[method-assign]
    engine._pull_slotted = lambda *_: ([], 0)  # type: ignore[method-assign]
    for bench in (together, apart):
        bench.play("read", 1, [])
        bench.play("write", 0, [60])
    for step in asked:
        together.play(*step)
        apart.play(*step)
    assert together.log == apart.log
