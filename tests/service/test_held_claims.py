"""Claims that are held while somebody is asked, over gRPC: they wait, and end with their call."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hypervisor import errors
from hypervisor.mach.devices import UPLINK_OWNER
from tests.helpers.loops import on_both_loops
from tests.helpers.service import refused_with, serving


@on_both_loops
async def test_a_claim_whose_call_is_cancelled_makes_way_for_another(tmp_path: Path) -> None:
    # The clock stands still: nothing that is held ends by itself.
    async with serving(tmp_path, clock=lambda: 1_000.0) as it:
        it.runtime.open_outlet("net0", UPLINK_OWNER, "lan", "nic", "eno1")
        client = await it.client()
        one, two = await client.open("eth0"), await client.open("eth1")

        held = client.call("DeviceClaim", port=one.port, address="10.0.0.7")
        # A probe comes: the claim is held.
        assert one.mac_address in (await client.read(two.port)).data
        refused = client.call("DeviceClaim", port=two.port, address="10.0.0.7")
        said = await refused_with(refused, errors.AlreadyOpen)
        assert "address 10.0.0.7 is being claimed by another" in said
        held.cancel()
        probed = asyncio.ensure_future(_data(client.read(one.port)))
        while not probed.done():
            # Refused until the cancellation has arrived, and then held for as long as we like.
            call = client.call("DeviceClaim", port=two.port, address="10.0.0.7")
            answered = asyncio.ensure_future(call.code())
            await asyncio.wait({answered, probed}, return_when=asyncio.FIRST_COMPLETED)
            call.cancel()
            await answered
        assert two.mac_address in probed.result()


async def _data(reading: Any) -> bytes:
    return bytes((await reading).data)
