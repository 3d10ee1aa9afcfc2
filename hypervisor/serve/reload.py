"""The configuration file read again: what it says of policy is put in force, the rest is named.

Asked for by SIGHUP and by NetworkService.ReloadPolicy, one at a time. The file is read in a thread,
since users are looked up and tables are many; what it says is judged whole, and only then does
anything change, in the loop, between two frames. A file with a mistake changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from hypervisor.config import ConfigError, FlagValues, NetworkConfig, ServerConfig, load_config
from hypervisor.infos import Reloaded
from hypervisor.runtime import Runtime
from hypervisor.serve.compose import rules

log = logging.getLogger(__name__)

#: What of a configuration needs a restart, and how it is called.
_FIXED: Mapping[str, str] = {
    "translators": "the nodes",
    "state": "the state directory",
    "guests": "the guests' sockets",
    "vdes": "the VDE folders",
    "gateways": "the gateways",
    "listen": "the TCP listener",
    "tls": "the TLS files",
    "uplinks": "the uplinks",
    "insecure_loopback": "insecure_loopback",
    "log_format": "the log's format",
}


class Reloader:
    """Brings a running server's policy up to date with its file.

    ``config`` is what the server was started with; ``inherited`` as of load_config().
    """

    def __init__(
        self,
        path: Path | None,
        flags: FlagValues,
        inherited: Mapping[Path, str],
        config: ServerConfig,
    ) -> None:
        self._path = None if path is None else path.absolute()
        self._flags = flags
        self._inherited = inherited
        self._started_with = config
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def following(self, wanted: asyncio.Event, runtime: Runtime) -> AsyncIterator[None]:
        """Reload during the block whenever ``wanted`` is set; many times at once are one."""

        async def follow() -> None:
            while True:
                await wanted.wait()
                wanted.clear()
                await self.reload(runtime)

        task = asyncio.create_task(follow())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def reload(self, runtime: Runtime) -> Reloaded:
        """Read the file and put its policy in force; log what came of it."""
        async with self._turn:
            done = await self._reload(runtime)
        for problem in done.problems:
            log.error("policy is unchanged: %s", problem)
        for change in done.changes:
            log.info("policy changed: %s", change)
        for what in done.unapplied:
            log.warning("not before a restart: %s", what)
        if done.applied and not done.changes:
            log.info("policy is in force; nothing that is open changed")
        return done

    async def _reload(self, runtime: Runtime) -> Reloaded:
        if self._path is None:
            why = "the server was started without --config: there is no file to read again"
            return Reloaded(False, problems=(why,))
        loop = asyncio.get_running_loop()
        try:
            config = await loop.run_in_executor(
                None, load_config, self._path, self._flags, self._inherited
            )
        except ConfigError as error:
            return Reloaded(False, problems=tuple(str(each) for each in error.problems))
        changes: list[str] = []
        running = {network.name for network in self._started_with.networks}
        for network in config.networks:
            if network.name in running:
                told = rules(network.name, config.policies)
                changes += runtime.change_policy(network.name, told, network.guard)
        return Reloaded(True, tuple(changes), tuple(self._unapplied(config)))

    def _unapplied(self, config: ServerConfig) -> Iterator[str]:
        """Yield what the file says that a running server cannot do."""
        started = self._started_with
        before = {network.name: network for network in started.networks}
        after = {network.name: network for network in config.networks}
        for name in after.keys() - before.keys():
            yield f'network "{name}" is new'
        for name in before.keys() - after.keys():
            yield f'network "{name}" is left out'
        for name in before.keys() & after.keys():
            for key in _differing(before[name], after[name]):
                yield f'{key} of network "{name}" changed'
        for key, words in _FIXED.items():
            if getattr(started, key, None) != getattr(config, key, None):
                yield f"{words} changed"


def _differing(before: NetworkConfig, after: NetworkConfig) -> Iterator[str]:
    for each in dataclasses.fields(NetworkConfig):
        same = getattr(before, each.name) == getattr(after, each.name)
        if not same and each.name != "guard":
            yield each.name
