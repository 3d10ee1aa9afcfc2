"""Running a server: from a configuration to an exit status."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hypervisor.config import (
    ConfigError,
    FlagValues,
    ServerConfig,
    UplinkConfig,
    load_config,
)
from hypervisor.errors import DeviceError
from hypervisor.kernel.process import keep_freed_memory
from hypervisor.runtime import Runtime
from hypervisor.serve import logs
from hypervisor.serve.announce import announcement, example_command
from hypervisor.serve.compose import make_runtime
from hypervisor.serve.doors import Doors, opened
from hypervisor.serve.errors import StartError
from hypervisor.serve.event_log import EventLog
from hypervisor.serve.gateways import running, starter
from hypervisor.serve.heritage import Heritage
from hypervisor.serve.privileges import give_up_privileges, raise_descriptor_limit
from hypervisor.serve.readiness import ready_pipe
from hypervisor.serve.reload import Reloader
from hypervisor.serve.succession import Successor
from hypervisor.serve.wishes import Wishes
from hypervisor.service.certificates import ServerCertificates
from hypervisor.service.guests import Guests, Invitation
from hypervisor.service.server import Server
from hypervisor.service.systemd import (
    ActivationError,
    InheritedSocket,
    Notifier,
    inherited_sockets,
)
from hypervisor.store import StoreError

if TYPE_CHECKING:
    from hypervisor.gateway.spawner import Spawner
    from hypervisor.links.uplink import NicKeeper

log = logging.getLogger(__name__)

#: Everything is over this long after a signal, whatever clients do.
STOP_S = 1.0

#: The same when another server waits to go on, and clients are to come back to it.
MAKE_WAY_S = 0.2


def run_server(path: Path | None, flags: FlagValues) -> int:
    """Run a server by a configuration file (None: no file) and flags, until a signal.

    Takes the sockets of a service manager if there are any. Returns 0. Raises ConfigError with
    every mistake of the configuration, or StartError when it is right and cannot be done here.
    """
    with Heritage.taken(os.environ) as heritage:
        try:
            inherited = heritage.activated() or inherited_sockets(os.environ)
        except ActivationError as error:
            raise StartError(str(error)) from error
        try:
            config = load_config(path, flags, {one.path: one.name for one in inherited})
        except ConfigError:
            for one in inherited:
                one.socket.close()
            raise
        reloader = Reloader(path, flags, {one.path: one.name for one in inherited}, config)
        return run_config(config, inherited, heritage, reloader)


def run_config(
    config: ServerConfig,
    inherited: Sequence[InheritedSocket] = (),
    heritage: Heritage | None = None,
    reloader: Reloader | None = None,
) -> int:
    """Run a server by a configuration, until SIGTERM or SIGINT; return 0. Raises StartError.

    ``reloader`` knows where the configuration is from, if it is from a file. Logs to stderr. Gives
    up the process's privileges, for good: run it in a process of its own.
    When another server is to follow it may not return, but wait for that one in its stead
    (:mod:`hypervisor.serve.keeper`).
    """
    # Until the loop listens for it, SIGTERM must not leave nodes behind.
    signal.signal(signal.SIGTERM, _leave)
    # Nor must SIGUSR2 end us, as it would by default.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    heritage = heritage or Heritage()
    # Whoever asked the first server was told; the descriptor is not a successor's.
    ready_fd = None if heritage.inherits else config.ready_fd
    with ready_pipe(ready_fd) as tell_ready:
        logs.configure(config.log_format, sys.stderr)
        raise_descriptor_limit()
        with starter(config.gateways) as spawner, opened(config, inherited, heritage) as doors:
            try:
                give_up_privileges(doors.capabilities())
            except OSError as error:
                raise StartError(f"cannot give up privileges: {error}") from error
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                successor = runner.run(
                    serve(config, doors, tell_ready, spawner, heritage, reloader)
                )
    return 0 if successor is None else successor.make_way()


async def serve(
    config: ServerConfig,
    doors: Doors,
    tell_ready: Callable[[], None],
    spawner: Spawner | None = None,
    heritage: Heritage | None = None,
    reloader: Reloader | None = None,
) -> Successor | None:
    """Serve on open doors until SIGTERM or SIGINT, and return None; raises StartError.

    ``spawner`` starts the gateways, if the configuration has any. SIGUSR2 has a successor started
    by the same command line; when that is ready, it is returned and to be made way for. SIGHUP has
    the policy read again.
    """
    heritage = heritage or Heritage()
    wishes = Wishes()
    if heritage.inherits and not await _taken_over(heritage, doors, wishes):
        return None
    notifier = Notifier(os.environ)
    reloader = reloader or Reloader(None, FlagValues(), {}, config)
    runtime, server = _made(config, doors, reloader)
    guests = Guests(runtime, doors.guests, doors.vdes)
    logging_events = asyncio.create_task(EventLog(server.watchers).run())
    keeper: NicKeeper | None = None
    successor: Successor | None = None
    try:
        await server.start()
        invitations = _let_guests_in(guests)
        keeper, uplinks = _followed(runtime, doors)
        _tame_memory()
        gateways = running(config.gateways, spawner, runtime, server.rosters)
        async with _fresh(doors.certificates, server), gateways:
            _say_ready(config, doors, invitations, uplinks, notifier, runtime.data_path)
            tell_ready()
            async with reloader.following(wishes.to_reload, runtime):
                successor = await wishes.fulfilled(doors, heritage.keeper)
            if successor is None:
                log.info("stopping")
                notifier.stopping()
            else:
                log.info("making way for process %d", successor.pid)
                doors.hand_over()
    except OSError as error:
        raise StartError(f"cannot start serving: {error}") from error
    finally:
        guests.close()
        if keeper is not None:
            keeper.close()
        await server.stop(STOP_S if successor is None else MAKE_WAY_S)
        await logging_events
    log.info("stopped")
    return successor


def _made(config: ServerConfig, doors: Doors, reloader: Reloader) -> tuple[Runtime, Server]:
    """Make what serves, and what it serves; raises StartError."""
    try:
        runtime = make_runtime(config, doors.secrets, doors.leases)
    except StoreError as error:
        raise StartError(str(error)) from error
    certificates = doors.certificates
    server = Server(
        runtime,
        doors.listeners,
        doors.withdraw,
        private=config.state,
        credentials=None if certificates is None else certificates.credentials(),
        reload=lambda: reloader.reload(runtime),
    )
    return runtime, server


async def _taken_over(heritage: Heritage, doors: Doors, wishes: Wishes) -> bool:
    """Wait for the end of the server that we follow, and make its nodes ours.

    False if we are to stop before: then they are still its own.
    """
    await heritage.my_turn()
    if wishes.to_stop:
        return False
    doors.take_over()
    for node in heritage.left_over():
        node.close()
    heritage.close()
    return True


@contextlib.asynccontextmanager
async def _fresh(certificates: ServerCertificates | None, server: Server) -> AsyncIterator[None]:
    """Follow the files of TLS during the block, if there are any."""
    if certificates is None:
        yield
        return
    async with certificates.followed(server.end_remote):
        yield


def _tame_memory() -> None:
    """Keep the memory's keepers off the data path.

    What was imported and built lives as long as the server: it is never looked at again. Frames
    and requests form no cycles, so collections can be rare. But each connection's calls do: with
    rarer ones than these, 11 KB of every client that ever came are kept.
    """
    keep_freed_memory()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _let_guests_in(guests: Guests) -> Sequence[Invitation]:
    try:
        return guests.open()
    except DeviceError as error:
        raise StartError(f"cannot open a guest's device: {error}") from error


def _followed(
    runtime: Runtime, doors: Doors
) -> tuple[NicKeeper | None, Mapping[UplinkConfig, str]]:
    if not doors.uplinks:
        return None, {}
    from hypervisor.serve.uplinks import follow_uplinks

    return follow_uplinks(runtime, doors.uplinks)


def _say_ready(
    config: ServerConfig,
    doors: Doors,
    invitations: Sequence[Invitation],
    uplinks: Mapping[UplinkConfig, str],
    notifier: Notifier,
    data_path: str,
) -> None:
    labels = [listener.label for listener in doors.listeners]
    tcp = labels[-1] if config.listen is not None else ""
    if config.log_format == "text":
        text = announcement(config, data_path, tcp, invitations, uplinks)
        print(text, file=sys.stderr, flush=True)
    else:
        networks = [network.name for network in config.networks]
        example = example_command(config) if config.translators else ""
        extra = logs.fields(nodes=labels, networks=networks, example=example, data_path=data_path)
        log.info("ready", extra=extra)
        for one in invitations:
            about = logs.fields(
                network=one.network,
                device=one.device,
                path=one.path,
                mac=one.mac.hex(":"),
                qemu=one.qemu_arguments(),
            )
            log.info("a guest may plug in", extra=about)
    notifier.ready(f"serving on {', '.join(labels)}")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop if uvloop is installed, None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
