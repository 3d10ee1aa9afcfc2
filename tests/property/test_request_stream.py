"""Whatever is asked on a stream, each request has one end: a reply, or that it was cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from machdev.v1 import device_pb2 as pb

from hypervisor.engine.audit import audit
from hypervisor.engine.quotas import Limits
from hypervisor.errors import D_NOWAIT, D_READ, D_WRITE
from hypervisor.requests import Caller, CreateTask, EndTask, OpenDevice, Opened
from hypervisor.runtime import Runtime
from hypervisor.service.identity import Connection, Person
from hypervisor.service.stream import Promises, RequestStream
from hypervisor.service.task import Task
from hypervisor.service.turns import Turns
from hypervisor.service.waiters import Waiters
from tests.helpers.service import network

CRAMPED = Limits(
    pool_frames=24, tx_slots=4, rx_slots=4, held_requests_per_open=5, held_requests_per_task=8
)
#: Numbers are few, so that they meet; 0 is none.
numbers = st.integers(0, 12)
#: Two devices, a dead port, and what is no port at all.
ports = st.integers(0, 3)
modes = st.sampled_from((0, 0, D_NOWAIT))
sizes = st.sampled_from((13, 60, 60, 60, 200, 1514, 1515))
requests = st.one_of(
    st.tuples(st.just("write"), numbers, ports, modes, sizes, st.integers(1, 1)),
    st.tuples(st.just("write_inband"), numbers, ports, modes, sizes, st.integers(1, 1)),
    st.tuples(st.just("write_vector"), numbers, ports, modes, sizes, st.integers(0, 9)),
    st.tuples(st.just("read"), numbers, ports, modes, st.integers(-1, 1514), st.just(1)),
    st.tuples(st.just("read"), numbers, ports, modes, st.just(1514), st.just(1)),
    st.tuples(st.just("read_vector"), numbers, ports, modes, st.just(1514), st.integers(0, 9)),
    st.tuples(st.just("cancel"), numbers, ports, modes, numbers, st.just(1)),
    st.tuples(st.just("open"), numbers, ports, st.sampled_from((0, 3)), sizes, st.just(1)),
    st.tuples(st.just("nothing"), numbers, ports, modes, sizes, st.just(1)),
)
batches = st.lists(st.lists(requests, max_size=6), min_size=1, max_size=8)


class Bench:
    """A stream without gRPC, on a network whose limits are small."""

    def __init__(self) -> None:
        self.core = network("net0", CRAMPED)
        self.runtime = Runtime([self.core])
        self.waiters = Waiters(self.runtime)
        self.runtime.bind(self.waiters.complete, lambda events: None)
        self.promises = Promises()
        #: By number: how often it was accepted, and how often it has ended.
        self.accepted: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()

    async def begin(self) -> None:
        token = await self.waiters.ask("net0", CreateTask(self.waiters.next_id(), "uid:1"))
        self.caller = Caller("uid:1", token)
        opened: list[Opened] = [
            await self.waiters.ask(
                "net0", OpenDevice(self.waiters.next_id(), self.caller, D_READ | D_WRITE, name)
            )
            for name in "ab"
        ]
        self.ports = [opened[0].port, opened[1].port, bytes(16), b"none"]
        self.macs = [opened[0].mac, opened[1].mac]
        connection = Connection(Person("uid:1"), "net0", "node", "name")
        task = Task(self.caller, "net0", connection)
        self.stream = RequestStream(task, self.waiters, self.promises, Turns())

    def message(self, kind: str, number: int, port: int, mode: int, size: int, count: int) -> Any:
        source, to = self.macs[port % 2], self.macs[1 - port % 2]
        frame = (to + source + b"\x88\xb5").ljust(max(size, 0), b"\0")[: max(size, 0)]
        common = {"port": self.ports[port], "mode": mode}
        fields: dict[str, Any] = {
            "write": common | {"data": frame},
            "write_inband": common | {"data": frame},
            "write_vector": common | {"frames": [frame] * count},
            "read": common | {"bytes_wanted": size},
            "read_vector": common | {"bytes_wanted": size, "max_frames": count},
            "cancel": {"request_id": size},
            "open": {"name": "a", "mode": mode},
        }
        return pb.DeviceRequest(id=number, **({kind: fields[kind]} if kind in fields else {}))

    def take(self, batch: list[tuple[str, int, int, int, int, int]]) -> None:
        """Let the stream take a batch, and look at what it replies."""
        message = pb.DeviceRequestsRequest(requests=[self.message(*each) for each in batch])
        cancels = {each[1]: each[4] for each in batch if each[0] == "cancel"}
        for request in message.requests:
            self.accepted[request.id] += 1
        self.stream.take(message)
        while self.stream._batches:
            sent = self.stream._batches.popleft()
            self.promises.bytes -= sent.bytes
            for reply in sent.message.replies:
                self.ended[reply.id] += 1
                if reply.cancel.cancelled:
                    self.ended[cancels[reply.id]] += 1

    def check(self) -> None:
        """Every request has ended once, is held, or was refused under number 0."""
        held = Counter(self.stream._numbers.keys())
        refused = self.ended[0]
        for number, count in self.accepted.items():
            if number:
                assert self.ended[number] + held[number] <= count
        total = sum(self.accepted.values())
        assert sum(self.ended.values()) + sum(held.values()) == total, (refused, held)
        assert self.stream._asked.keys() == set(self.stream._numbers.values())
        assert len(self.waiters) == len(held)
        assert self.promises.bytes == sum(each[2] for each in self.stream._asked.values())
        audit(self.core.engine)

    async def end(self) -> None:
        self.stream.close()
        assert len(self.waiters) == 0
        assert self.promises.bytes == 0
        assert self.core.engine.held_reads == self.core.engine.held_writes == 0
        await self.waiters.ask("net0", EndTask(self.waiters.next_id(), self.caller))
        assert audit(self.core.engine).live_frames == 0
        self.waiters.close()
        await self.runtime.stop()


@given(batches)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_each_request_ends_once(asked: list[list[tuple[str, int, int, int, int, int]]]) -> None:
    async def play() -> None:
        bench = Bench()
        await bench.begin()
        for batch in asked:
            bench.take(batch)
            bench.check()
        await bench.end()

    asyncio.run(play())
