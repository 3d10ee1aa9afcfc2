"""``pfinet-client events``: what happened to one's own devices, and what happens."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict
from machdev.v1 import network_pb2

from hypervisor import console
from pfinet_client.client import Client
from pfinet_client.drive import stop_on_signals
from pfinet_client.target import Target


@dataclass(frozen=True, slots=True)
class EventsOptions:
    """What to show: ``recent`` recorded events and, to ``follow``, those that happen.

    ``device`` is the server; ``name`` and ``reason`` choose, "" is any.
    """

    device: str | Target | None
    recent: int
    follow: bool
    as_json: bool
    name: str = ""
    reason: str = ""


async def show_events(options: EventsOptions) -> int:
    """Print events until there are no more to come, or a signal; return 0."""
    async with Client(options.device) as client:
        with stop_on_signals() as stop:
            showing = asyncio.create_task(_show(client, options))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait((showing, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if showing.done():
                showing.result()
            showing.cancel()
            await asyncio.wait((showing,))
    return 0


async def _show(client: Client, options: EventsOptions) -> None:
    events = client.network.events(
        recent=options.recent,
        follow=options.follow,
        device=options.name,
        reason=options.reason,
    )
    async for one in events:
        values = _values(one)
        line = json.dumps(values) if options.as_json else console.event_line(values)
        print(line, flush=True)


def _values(answer: network_pb2.WatchEventsResponse) -> dict[str, Any]:
    if answer.WhichOneof("payload") == "lost":
        return {"lost": answer.lost.events}
    values: dict[str, Any] = MessageToDict(
        answer.event, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    # JSON of protobuf writes 64 bits as text.
    values["repetitions"] = answer.event.repetitions
    return values
