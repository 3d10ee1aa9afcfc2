"""A port that outlives its server, as pfinet's does.

Where a call finds its port dead (MACH_SEND_INVALID_DEST, MIG_SERVER_DIED) or the server gone,
pfinet waits, opens the same device again and tries the call once more. So does this port: it
attaches a new task if the old one ended, opens the same name in the same role, takes its addresses
and flags again, lends its TAP again, and repeats the call. The waits double from 0.1 s up to a
cap and are spread by chance, so that a server's hundred clients do not come back in one instant.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypervisor.errors import AlreadyOpen, DeviceError
from pfinet_client.errors import DEAD_PORT, unavailable
from pfinet_client.port import DevicePort, OpenRequest
from pfinet_client.values import Claimed

if TYPE_CHECKING:
    from machdev.v1 import device_pb2

    from pfinet_client.client import Client

#: What a new attempt may cure. AlreadyOpen is: the dead port's successor comes a moment early.
_PASSING = (*DEAD_PORT, AlreadyOpen)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before each attempt, in s: exponential, capped, spread by ±``jitter``.

    ``attempts`` bounds them (None: for ever). ``sleep`` and ``chance`` (0 to 1) are what tests
    put a clock and a die of their own in for.
    """

    first_s: float = 0.1
    cap_s: float = 5.0
    factor: float = 2.0
    jitter: float = 0.25
    attempts: int | None = None
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    chance: Callable[[], float] = random.random

    def delays(self) -> Iterator[float]:
        """Yield the wait before each attempt."""
        delay_s, done = self.first_s, 0
        while self.attempts is None or done < self.attempts:
            yield delay_s * (1 + self.jitter * (2 * self.chance() - 1))
            delay_s = min(delay_s * self.factor, self.cap_s)
            done += 1


class ReconnectingPort(DevicePort):
    """A device port that reopens itself; made by ``Client.open_reconnecting``.

    Frames in flight when the server died are lost, as on any Ethernet. After the last of a bounded
    number of attempts the error of that attempt is raised.
    """

    def __init__(
        self,
        client: Client,
        opened: device_pb2.DeviceOpenResponse,
        request: OpenRequest,
        backoff: Backoff,
    ) -> None:
        super().__init__(client, opened)
        self._request = OpenRequest(opened.name, request.mode, request.exclusive, request.role)
        self._backoff = backoff
        self._recovering = asyncio.Lock()
        self._addresses: dict[str, None] = {}
        self._flags: int | None = None
        self._tap: int | None = None

    async def _call(self, routine: str, message: Callable[[bytes], Any]) -> Any:
        used = self.port
        try:
            return await super()._call(routine, message)
        except DEAD_PORT:
            if self._closed:
                raise
            await self.recover(used)
            return await super()._call(routine, message)

    async def recover(self, dead: bytes | None = None) -> None:
        """Open the device again, waiting for the server as long as the back-off says.

        ``dead`` is the port the caller found dead: if another call replaced it meanwhile, nothing
        is left to do.
        """
        dead = self.port if dead is None else dead
        async with self._recovering:
            if self.port == dead:
                await self._reopen_in_time()

    async def _reopen_in_time(self) -> None:
        failure: Exception = unavailable(self._client.target, "no attempt was allowed")
        for delay_s in self._backoff.delays():
            await self._backoff.sleep(delay_s)
            try:
                await self._reopen()
                return
            except _PASSING as error:
                failure = error
        raise failure

    async def _reopen(self) -> None:
        if self._client.lost:
            await self._client.reconnect(self._client.generation)
        opened = await self._client.call("DeviceOpen", self._request.message())
        # A plain port sets up what this one had: its calls are not repeated from in here.
        fresh = DevicePort(self._client, opened)
        try:
            for address in self._addresses:
                await fresh.claim(address)
            if self._flags is not None:
                await fresh.set_flags(self._flags)
            if self._tap is not None:
                await fresh.attach_tap(self._tap)
        except BaseException:
            await fresh.close()
            raise
        self._adopt(opened)

    async def claim(self, address: str) -> Claimed:
        """Take an address now and after every reopening."""
        claimed = await super().claim(address)
        self._addresses[claimed.address] = None
        return claimed

    async def unclaim(self, address: str) -> None:
        """Give an address back for good."""
        await super().unclaim(address)
        # The server took it, so it is an address; claims are kept in canonical text.
        self._addresses.pop(str(ipaddress.ip_address(address)), None)

    async def set_flags(self, flags: int) -> None:
        """Set the flags now and after every reopening."""
        await super().set_flags(flags)
        self._flags = flags

    async def attach_tap(self, descriptor: int) -> None:
        """Lend a TAP now and after every reopening: keep it open as long as the port."""
        await super().attach_tap(descriptor)
        self._tap = descriptor


async def stay_connected(
    client: Client, port: ReconnectingPort, say: Callable[[str], None]
) -> None:
    """Reopen the device whenever the server has gone, saying so once each time; never returns
    unless the device cannot be had again.
    """
    name = client.target.name
    while True:
        await client.wait_lost()
        say(f"the server at {name} is gone; waiting for it to come back")
        try:
            await port.recover()
        except (ConnectionError, DeviceError) as error:
            say(f"cannot take device {port.name} up again: {error}")
            return
        say(f"connected again to {name}")
