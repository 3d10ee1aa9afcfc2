"""A gateway's place behind a port of somebody's server, lent to it again when that comes back."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
from collections.abc import Callable
from typing import Any, Final

from hypervisor.apart.grants import blindness, refusal, unusable
from hypervisor.config.model import GatewayConfig
from hypervisor.errors import AlreadyOpen, DeviceError
from hypervisor.gateway.directory import Directory
from hypervisor.gateway.home import NoPlace
from hypervisor.gateway.plan import GatewayPlan, plan_of
from hypervisor.gateway.registrar import Registrar
from hypervisor.infos import MemberInfo
from pfinet_client.client import Client
from pfinet_client.errors import DEAD_PORT
from pfinet_client.members import Picture, follow_members
from pfinet_client.reopen import ReconnectingPort

log = logging.getLogger(__name__)

#: How long the server may take to close the device's port, in s; it does so in milliseconds.
_GOODBYE_S: Final = 2.0
_FAILURES = (ConnectionError, DeviceError)


class PortHome:
    """A :class:`hypervisor.gateway.home.Home` of ``client``, which its owner closes."""

    def __init__(self, client: Client, device: str, gateway: GatewayConfig) -> None:
        self._client = client
        self._device = device
        self._gateway = gateway
        self._port: ReconnectingPort | None = None
        self._tap = -1
        self._picture = Picture((), (), everybody=True, routes=True, serves=True)
        self._follower: asyncio.Task[None] | None = None
        self._registrar: tuple[str, Registrar] | None = None
        self.on_gone: Callable[[str], None] = lambda why: None
        self.on_change: Callable[[], None] = lambda: None
        #: Set when the gateway has been up for the first time.
        self.was_up = asyncio.Event()

    async def enter(self) -> str:
        """Open the device for the first time and ask whether policy lets it be a gateway.

        Returns why not, "" if it does. Raises DeviceError and ConnectionError.
        """
        port = await self._open()
        async with contextlib.aclosing(follow_members(self._client, port.port)) as pictures:
            self._picture = await anext(pictures)
        about = (self._gateway, self._picture, self._client.owner, self._device)
        if why := refusal(*about):
            return why
        if blind := blindness(*about):
            log.warning("%s", blind, extra=self._fields())
        (network,) = (await self._client.network.status(port.network)).networks
        for text in unusable(self._gateway, network.guard, network.subnets):
            log.warning("%s", text, extra=self._fields())
        return ""

    async def plan(self) -> GatewayPlan:
        """Return the plan for the device as it is now, having opened it if need be."""
        try:
            port = self._port or await self._open()
        except _FAILURES as error:
            raise NoPlace(str(error)) from None
        if self._follower is None:
            self._follower = asyncio.create_task(self._follow(port))
        return plan_of(self._gateway, port.network, port.mac, port.mtu)

    async def plug(self, tap: int) -> None:
        """Lend a TAP to the server, now and whenever it comes back."""
        assert self._port is not None
        self._tap = tap
        try:
            await self._port.attach_tap(tap)
        except _FAILURES as error:
            raise NoPlace(f"the server does not take its TAP: {error}") from None

    async def unplug(self, why: str) -> None:
        """Close the port, and with it the server's copy of the TAP; the next plan opens another."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
        port, self._port = self._port, None
        if port is not None:
            # A server that does not answer shall keep nobody: the task's end closes it.
            with contextlib.suppress(TimeoutError, *_FAILURES):
                async with asyncio.timeout(_GOODBYE_S):
                    await port.close()
        tap, self._tap = self._tap, -1
        if tap >= 0:
            os.close(tap)

    def changed(self, detail: str) -> None:
        """Note that the gateway is up."""
        self.was_up.set()

    async def directory(self) -> Directory:
        """Return what the server told of the network the last time."""
        assert self._port is not None
        network = self._port.network
        if self._registrar is None or self._registrar[0] != network:
            plan = plan_of(self._gateway, network, self._port.mac, self._port.mtu)
            self._registrar = network, Registrar(plan)
        members = [
            MemberInfo(
                each.owner,
                each.name,
                each.mac_address,
                tuple(each.addresses),
                assigned=each.is_assigned,
                open=each.is_open,
            )
            for each in self._picture.members
        ]
        taken = {ipaddress.ip_address(each) for each in self._picture.taken}
        return await self._registrar[1].directory(members, taken)

    async def close(self) -> None:
        """Close the port, if that was not done."""
        await self.unplug("")

    async def _open(self) -> ReconnectingPort:
        """Open the device and claim the gateway's addresses; connect again before if need be."""
        if self._client.lost:
            await self._client.reconnect(self._client.generation)
        try:
            port = await self._client.open_reconnecting(self._device, role="stack")
        except AlreadyOpen:
            raise AlreadyOpen(
                f"device {self._device} of {self._client.target.name} has its stack already: "
                "another gateway runs there; end that one, or choose another --device-name"
            ) from None
        try:
            for address in self._gateway.addresses:
                await port.claim(str(address.ip))
        except BaseException:
            with contextlib.suppress(*_FAILURES):
                await port.close()
            raise
        self._port = port
        return port

    async def _follow(self, port: ReconnectingPort) -> None:
        """Follow who is there, and have the port opened again whenever it is dead."""
        name = self._client.target.name
        try:
            while True:
                used = port.port
                with contextlib.suppress(*DEAD_PORT):
                    async with contextlib.aclosing(follow_members(self._client, used)) as pictures:
                        async for picture in pictures:
                            self._see(picture)
                # A server that stops closes ports before it goes, so which it was is not known yet.
                log.warning(
                    "the server at %s is gone, or has closed the gateway's device; waiting for it",
                    name,
                    extra=self._fields(),
                )
                await port.recover(used)
                log.info("connected again to %s", name, extra=self._fields())
        except _FAILURES as error:
            self.on_gone(f"its device is lost: {error}")

    def _see(self, picture: Picture) -> None:
        before, self._picture = self._picture, picture
        about = self._gateway, picture, self._client.owner, self._device
        if (before.routes, before.serves) != (picture.routes, picture.serves):
            if why := refusal(*about):
                log.warning("%s", why, extra=self._fields())
            else:
                log.info("policy lets the gateway work again", extra=self._fields())
        elif before.everybody and (blind := blindness(*about)):
            log.warning("%s", blind, extra=self._fields())
        self.on_change()

    def _fields(self) -> dict[str, Any]:
        return {"fields": {"network": self._client.network_name}}
