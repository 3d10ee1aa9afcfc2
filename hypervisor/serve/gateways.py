"""The gateways of a server: the process that starts them, and who keeps each alive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

from hypervisor.config.model import AddressRange, GatewayConfig
from hypervisor.gateway.plan import GATEWAY_DEVICE, GATEWAY_OWNER, GatewayPlan
from hypervisor.gateway.registrar import Registrar
from hypervisor.gateway.spawner import Spawner, spawner
from hypervisor.gateway.supervisor import Supervisor
from hypervisor.runtime import Runtime
from hypervisor.serve.ports import check_ports

#: How long "ready" is put off for the sake of gateways that are not up yet.
PATIENCE_S = 2.0


@contextlib.contextmanager
def starter(gateways: Sequence[GatewayConfig]) -> Iterator[Spawner | None]:
    """Yield the process that starts gateways, None if there are none. Raises OSError, StartError.

    Before anything is opened, and while there is one thread.
    """
    if not gateways:
        yield None
        return
    check_ports(gateways)
    with spawner() as made:
        yield made


@contextlib.asynccontextmanager
async def running(
    gateways: Sequence[GatewayConfig], made: Spawner | None, runtime: Runtime
) -> AsyncIterator[None]:
    """Keep the gateways alive during the block; it begins when they are up, or soon."""
    supervisors = [_supervisor(one, made, runtime) for one in gateways if made is not None]
    try:
        for one in supervisors:
            one.start()
        await asyncio.gather(*(one.settled(PATIENCE_S) for one in supervisors))
        yield
    finally:
        await asyncio.gather(*(one.stop() for one in supervisors))


def _supervisor(gateway: GatewayConfig, made: Spawner, runtime: Runtime) -> Supervisor:
    addresses = " ".join(str(address) for address in gateway.addresses)
    outlet = runtime.open_outlet(
        gateway.network, GATEWAY_OWNER, GATEWAY_DEVICE, "tap", f"gateway {addresses}"
    )
    plan = GatewayPlan(
        network=gateway.network,
        addresses=gateway.addresses,
        mac=outlet.mac,
        mtu_bytes=outlet.mtu,
        reach_host=gateway.host,
        dhcp=bool(gateway.dhcp),
        dhcp_range=gateway.dhcp if isinstance(gateway.dhcp, AddressRange) else None,
        dns=gateway.dns,
        ra=gateway.ra,
        nat=gateway.nat,
        forwards=gateway.forwards,
    )
    supervisor = Supervisor(plan, made, outlet, Registrar(plan, runtime).directory)
    runtime.follow_members(gateway.network, supervisor.devices_changed)
    return supervisor
