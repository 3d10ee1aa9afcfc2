"""The gateways of a server: the process that starts them, and who keeps each alive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from hypervisor.config.model import GatewayConfig
from hypervisor.errors import DeviceError
from hypervisor.gateway.directory import Directory
from hypervisor.gateway.home import NoPlace
from hypervisor.gateway.plan import GATEWAY_DEVICE, GATEWAY_OWNER, GatewayPlan, plan_of
from hypervisor.gateway.registrar import Registrar
from hypervisor.gateway.supervisor import Supervisor
from hypervisor.links.lent_tap import LentTap
from hypervisor.roster import Rosters
from hypervisor.runtime import Runtime
from hypervisor.serve.ports import check_ports

if TYPE_CHECKING:
    from hypervisor.gateway.spawner import Spawner

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
    # Not for a server without gateways: with it comes netlink, a third of what a start costs.
    from hypervisor.gateway.spawner import spawner

    with spawner() as made:
        yield made


@contextlib.asynccontextmanager
async def running(
    gateways: Sequence[GatewayConfig], made: Spawner | None, runtime: Runtime, rosters: Rosters
) -> AsyncIterator[None]:
    """Keep the gateways alive during the block; it begins when they are up, or soon."""
    if made is None:
        yield
        return
    homes = [OutletHome(one, runtime) for one in gateways]
    supervisors = [Supervisor(home, made) for home in homes]
    with contextlib.ExitStack() as following:
        try:
            for home, supervisor in zip(homes, supervisors, strict=True):
                following.enter_context(rosters.followed(home.network, home.members_changed))
                supervisor.start()
            await asyncio.gather(*(one.settled(PATIENCE_S) for one in supervisors))
            yield
        finally:
            await asyncio.gather(*(one.stop() for one in supervisors))


class OutletHome:
    """The home of a gateway of the server's own: an outlet that is there all the time."""

    def __init__(self, gateway: GatewayConfig, runtime: Runtime) -> None:
        addresses = " ".join(str(address) for address in gateway.addresses)
        self.network = gateway.network
        self._runtime = runtime
        self._outlet = runtime.open_outlet(
            gateway.network, GATEWAY_OWNER, GATEWAY_DEVICE, "tap", f"gateway {addresses}"
        )
        self._plan = plan_of(gateway, gateway.network, self._outlet.mac, self._outlet.mtu)
        self._registrar = Registrar(self._plan)
        self._outlet.on_gone = lambda why: self.on_gone(why)
        self.on_gone: Callable[[str], None] = lambda why: None
        self.on_change: Callable[[], None] = lambda: None

    def members_changed(self) -> None:
        """The network's devices or their addresses are others."""
        self.on_change()

    async def plan(self) -> GatewayPlan:
        """Return what was configured."""
        return self._plan

    async def plug(self, tap: int) -> None:
        """Adopt a TAP and put it into the outlet. Raises NoPlace."""
        loop = asyncio.get_running_loop()
        try:
            link = await loop.run_in_executor(None, LentTap.adopt, tap, self._plan.mac)
            link.peer = f"gateway {self._plan.shown}"
            self._outlet.plug(link, self._plan.mtu_bytes)
        except DeviceError as error:
            raise NoPlace(f"its TAP cannot be used: {error.message}") from None

    async def unplug(self, why: str) -> None:
        """Take the TAP out of the outlet."""
        self._outlet.unplug(why)

    def changed(self, detail: str) -> None:
        """Show it with the device."""
        self._outlet.changed(detail)

    async def directory(self) -> Directory:
        """Return what there is on the network."""
        return await self._registrar.directory(*self._runtime.members(self.network))

    async def close(self) -> None:
        """Give the device up."""
        self._outlet.close()
