"""The outer side of a gateway: start it, plug it in, say what happened, start it again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from hypervisor.gateway.directory import Directory
from hypervisor.gateway.home import Home, NoPlace
from hypervisor.gateway.plan import GatewayPlan
from hypervisor.kernel import messages
from hypervisor.kernel.wait import readable
from hypervisor.roster import Pace

if TYPE_CHECKING:
    from hypervisor.gateway.spawner import Spawner

log = logging.getLogger(__name__)

#: The first pause before a gateway is started again, and the longest: each is twice the last.
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 30.0
#: A gateway that lived for so long had nothing to do with why the one before it ended.
STEADY_S: Final = 10.0
#: How much longer than its own patience a gateway that says nothing is waited for.
_GRACE_S: Final = 5.0


class _Ended(Exception):
    """This run of the gateway is over; the message says why."""


class _Hopeless(Exception):
    """No gateway can be started any more; the message says why and what to do."""


class Supervisor:
    """Keeps one gateway alive in its home. Everything is of the home's loop."""

    def __init__(self, home: Home, spawner: Spawner) -> None:
        self._home = home
        self._spawner = spawner
        self._changed = asyncio.Event()
        self._plan: GatewayPlan | None = None
        self._sock: socket.socket | None = None
        self._unplugged = ""
        self._complaint = self._said = ""
        self._settled = asyncio.Event()
        self._up_since = 0.0
        self._task: asyncio.Task[None] | None = None
        home.on_gone = self._tap_gone
        home.on_change = self._changed.set
        #: How often the gateway has been up.
        self.ups = 0

    def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._run())

    async def settled(self, timeout_s: float) -> bool:
        """Wait until the gateway has come up or failed for the first time; False at the limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        return self._settled.is_set()

    async def stop(self) -> None:
        """End the gateway and give its place up. Twice is allowed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._home.close()

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        pause_s = FIRST_PAUSE_S
        while True:
            self._up_since = clock()
            try:
                why = await self._once()
            except _Hopeless as hopeless:
                log.error("no gateway any more: %s", hopeless, extra=self._fields())
                self._settled.set()
                return
            if clock() - self._up_since >= STEADY_S:
                pause_s = FIRST_PAUSE_S
            self._complain(why)
            self._settled.set()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _once(self) -> str:
        """Have the gateway run once; return why it ended."""
        try:
            plan = self._plan = await self._home.plan()
        except NoPlace as error:
            return str(error)
        why = "it is stopped"
        try:
            with self._spawner.start(plan) as self._sock:
                await self._live(plan, self._sock)
        except (_Ended, NoPlace) as ended:
            why = str(ended)
        except OSError as error:
            why = f"the process that starts gateways is gone ({error.strerror}): start this again"
            raise _Hopeless(why) from None
        finally:
            self._sock = None
            await self._home.unplug(why)
        return why

    async def _live(self, plan: GatewayPlan, sock: socket.socket) -> None:
        feeding: asyncio.Task[None] | None = None
        patience_s = plan.start_s + _GRACE_S
        try:
            async with asyncio.timeout(patience_s):
                _, fds = await self._expect(sock, "tap")
                await self._home.plug(fds[0])
                if plan.serves or plan.forwards:
                    feeding = asyncio.create_task(self._feed(sock))
                message, _ = await self._expect(sock, "ready")
            self._say_up(plan, message["versions"])
            await self._expect(sock, "nothing more")
        except TimeoutError:
            raise _Ended(f"it was not ready within {patience_s:g} s") from None
        finally:
            if feeding is not None:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)

    async def _feed(self, sock: socket.socket) -> None:
        """Tell the gateway who is there, now and whenever that has changed, but not too often."""
        pace = Pace(asyncio.get_running_loop().time)
        told: Directory | None = None
        self._changed.set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            directory = await self._home.directory()
            if directory == told:
                continue
            try:
                _send(sock, directory)
                told = directory
            except BlockingIOError:
                self._changed.set()  # it has not read the last ones yet
            except OSError:
                return  # it is gone, which is found out by who listens to it
            await asyncio.sleep(pace.told())

    async def _expect(self, sock: socket.socket, kind: str) -> tuple[dict[str, Any], list[int]]:
        """Return the next message, which must be of ``kind``. Raises _Ended if it is the last."""
        while True:
            await readable(sock.fileno())
            try:
                message, fds = messages.receive(sock, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            if message["kind"] == kind:
                return message, fds
            for fd in fds:
                os.close(fd)
            if message["kind"] == "said":
                self._pass_on(message["text"])
                continue
            if message["kind"] == "failed":
                raise _Ended(message["text"])
            raise _Ended(self._unplugged or "it was killed")

    def _pass_on(self, text: str) -> None:
        """Log what a gateway says while it runs, unless that was the last thing it said."""
        if text != self._said:
            self._said = text
            log.warning("gateway: %s", text, extra=self._fields())

    def _tap_gone(self, why: str) -> None:
        """The TAP went before the gateway did: that one is of no use any more."""
        self._unplugged = why
        if self._sock is not None:
            self._sock.shutdown(socket.SHUT_RDWR)

    def _say_up(self, plan: GatewayPlan, versions: list[int]) -> None:
        self.ups += 1
        self._complaint = self._unplugged = ""
        self._up_since = asyncio.get_running_loop().time()
        self._settled.set()
        ways = " and ".join(f"IPv{version}" for version in versions)
        self._home.changed(f"the way out is there for {ways}" if ways else "it is up")
        log.info("gateway is up", extra=self._fields(addresses=plan.shown))
        for version in sorted(plan.versions() - set(versions)) if plan.nat else ():
            log.warning(
                "IPv%d does not go out: this machine has no default route for it",
                version,
                extra=self._fields(),
            )

    def _complain(self, why: str) -> None:
        """Say why there is no gateway, unless that was the last thing said."""
        if why != self._complaint:
            self._complaint = why
            log.warning(
                "no gateway: %s; the network goes on without, and it is tried again",
                why,
                extra=self._fields(),
            )

    def _fields(self, **values: str) -> dict[str, Any]:
        network = {"network": self._plan.network} if self._plan is not None else {}
        return {"fields": {**network, **values}}


def _send(sock: socket.socket, directory: Directory) -> None:
    """Send a directory, which may be longer than a message: a file in memory goes along."""
    with open(os.memfd_create("directory"), "w+", encoding="utf-8") as file:
        json.dump(directory.as_json(), file)
        file.flush()
        file.seek(0)
        messages.send(sock, "directory", (file.fileno(),))
