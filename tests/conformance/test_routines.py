"""Routines that need more than one question: interrupts, device_open_new, numbers there are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from hypervisor.errors import BadArguments, InvalidDest, InvalidOperation
from tests.helpers.loops import on_both_loops
from tests.helpers.service import refused, refused_with, serving


@on_both_loops
async def test_interrupts_are_not_for_network_devices(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.client()
        await client.attach()
        opened = await client.open("eth0")
        receive = await client.receive_port()
        for routine, fields in (
            ("DeviceIntrRegister", {"id": 5, "flags": 0}),
            ("DeviceIntrAck", {}),
        ):
            call = client.call(routine, port=opened.port, receive_port=receive, **fields)
            assert "device_intr_" in await refused_with(call, InvalidOperation)
            call = client.call(routine, port=bytes(16), receive_port=receive, **fields)
            await refused_with(call, InvalidDest)
        status = await client.port_call("PortGetStatus", port=receive)
        assert (status.queued, status.senders, status.make_sends) == (0, 0, 0)


@on_both_loops
async def test_device_open_new_is_device_open(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.client()
        await client.attach()
        first = await client.open("eth0")
        second = await client.call("DeviceOpenNew", name="eth0", mode=3)
        assert (second.mac_address, second.mtu_bytes) == (first.mac_address, 1500)
        assert second.port != first.port
        await refused_with(client.call("DeviceOpenNew", name="eth0"), BadArguments)


@on_both_loops
async def test_a_method_that_is_not_there_is_unimplemented(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.client()
        method: Any = client.channel.unary_unary("/machdev.v1.DeviceService/DeviceGetFilter")
        assert await refused(method(b"")) is grpc.StatusCode.UNIMPLEMENTED
