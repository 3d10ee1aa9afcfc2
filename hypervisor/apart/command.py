"""The program ``hypervisor gateway``: from its flags to its exit status."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from hypervisor.apart.home import PortHome
from hypervisor.config.model import GatewayConfig, LogFormat
from hypervisor.errors import DeviceError
from hypervisor.gateway.obstacles import TOOLS, missing_tool
from hypervisor.gateway.spawner import Spawner, spawner
from hypervisor.gateway.supervisor import Supervisor
from hypervisor.kernel.preflight import preflight
from hypervisor.kernel.process import Capability
from hypervisor.serve import logs
from hypervisor.serve.announce import beside
from hypervisor.serve.errors import StartError
from hypervisor.serve.ports import check_ports
from hypervisor.serve.privileges import give_up_privileges
from hypervisor.serve.readiness import ready_pipe
from pfinet_client.client import Client
from pfinet_client.target import Target, named

log = logging.getLogger(__name__)

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class ApartOptions:
    """What ``hypervisor gateway`` was asked for.

    ``node`` is the server's, None for the default one; ``device`` what the gateway's device is
    called there.
    """

    gateway: GatewayConfig
    node: str | None = None
    device: str = "gateway"
    log_format: LogFormat = "text"
    ready_fd: int | None = None


def run_gateway(options: ApartOptions) -> int:
    """Be a gateway until SIGTERM, SIGINT or SIGHUP, and return 0. Raises StartError, ConfigError.

    Logs to stderr. Gives up the process's privileges, for good. Call it in the main thread of a
    process that has no other thread and no running event loop.
    """
    logs.configure(options.log_format, sys.stderr)
    with ready_pipe(options.ready_fd) as tell_ready:
        target = _target(options.node)
        _check_machine(options.gateway)
        try:
            with spawner() as made:
                # A node may be closed to root like to anybody, but for this.
                give_up_privileges((Capability.DAC_OVERRIDE,))
                asyncio.run(_live(options, target, made, tell_ready))
        except OSError as error:
            raise StartError(f"no gateway can be started: {error}") from error
    return 0


def _target(node: str | None) -> Target:
    try:
        target = named(node)
    except ValueError as error:
        raise StartError(str(error)) from None
    if target.path is None:
        raise StartError(
            f"{target.name} is reached over TCP, where no TAP can be lent: run the gateway on the "
            "server's machine, and name its node with --device"
        )
    return target


def _check_machine(gateway: GatewayConfig) -> None:
    """See that what has to be installed and allowed is; raises StartError."""
    lacking = [missing_tool(name) for name in TOOLS if name != "pasta" or gateway.nat]
    if gateway.dhcp or gateway.dns or gateway.ra:
        lacking.append(missing_tool("dnsmasq"))
    # Root's gateways run as another user, of whom their keeper finds it out.
    obstacles = preflight() if os.geteuid() != 0 else []
    if found := [*filter(None, lacking), *map(str, obstacles)]:
        raise StartError("; ".join(found))
    check_ports([gateway])


async def _live(
    options: ApartOptions, target: Target, made: Spawner, tell_ready: Callable[[], None]
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in _ENDING:
        loop.add_signal_handler(number, stop.set)
    entering = asyncio.create_task(_entered(options, target))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((entering, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not entering.done():
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        return
    client, home = entering.result()
    supervisor = Supervisor(home, made)
    try:
        supervisor.start()
        ready = asyncio.create_task(home.was_up.wait())
        await asyncio.wait((ready, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            _say_ready(options, client)
            tell_ready()
            await stop.wait()
        ready.cancel()
        log.info("stopping")
    finally:
        await supervisor.stop()
        await client.close()
    log.info("stopped")


async def _entered(options: ApartOptions, target: Target) -> tuple[Client, PortHome]:
    """Connect, and see that there is a place for a gateway. Raises StartError."""
    client = Client(target)
    try:
        await client.connect()
        home = PortHome(client, options.device, options.gateway)
        why = await home.enter()
        if why:
            raise StartError(why)
    except (ConnectionError, DeviceError) as error:
        await client.close()
        raise StartError(str(error)) from None
    except BaseException:
        await client.close()
        raise
    return client, home


def _say_ready(options: ApartOptions, client: Client) -> None:
    gateway = options.gateway
    words = ["pfinet-client", "run", "--device", client.target.name]
    if gateway.dhcp:
        words.append("--dhcp")
    else:
        own = gateway.addresses[0]
        words += ["--address", beside(own), "--gateway", str(own.ip)]
    example = shlex.join([*words, "--", "bash"])
    log.info("ready", extra=logs.fields(network=client.network_name, example=example))
