"""Names and addresses from outside: what a gateway's dnsmasq is to know of the devices."""

from __future__ import annotations

import asyncio
import logging
import pwd
from collections.abc import Collection, Iterable, Sequence

from hypervisor.config.gateways import default_range, home_of
from hypervisor.config.model import Address
from hypervisor.gateway.directory import Directory, is_gateway, needs_offer, write
from hypervisor.gateway.names import owner_label
from hypervisor.gateway.plan import GatewayPlan
from hypervisor.gateway.pool import AddressPool
from hypervisor.infos import MemberInfo

log = logging.getLogger(__name__)


class Registrar:
    """Knows the devices of one network as its gateway's services do; offers them addresses."""

    def __init__(self, plan: GatewayPlan) -> None:
        self._plan = plan
        self._labels: dict[str, str] = {}
        self._pool = _pool(plan)
        self._used_up = False

    async def directory(
        self, members: Sequence[MemberInfo], taken: Collection[Address]
    ) -> Directory:
        """Return what dnsmasq is to know; ``taken`` are the addresses that are somebody's."""
        owners = {each.owner for each in members if not is_gateway(self._plan, each)}
        self._labels = {owner: label for owner, label in self._labels.items() if owner in owners}
        if unknown := owners - self._labels.keys():
            # Users may be looked up over a network.
            loop = asyncio.get_running_loop()
            self._labels |= await loop.run_in_executor(None, _labels, unknown)
        # What has changed meanwhile is asked for again: this was how things were.
        if self._pool is None:
            return write(self._plan, members, {}, self._labels)
        wanting = [(each.owner, each.name) for each in members if needs_offer(self._plan, each)]
        offers = self._pool.assign(wanting, taken)
        self._complain(sum(offer is None for offer in offers.values()))
        return write(self._plan, members, offers, self._labels)

    def _complain(self, without: int) -> None:
        """Say that devices get no address, when that begins."""
        if without and not self._used_up:
            log.warning(
                "%d devices get no address by DHCP: the range, or their owner's half of it, is "
                "used up; give the gateway a larger one",
                without,
                extra={"fields": {"network": self._plan.network}},
            )
        self._used_up = bool(without)


def _pool(plan: GatewayPlan) -> AddressPool | None:
    home = home_of(plan.addresses, plan.dhcp_range) if plan.dhcp else None
    if home is None:
        return None
    return AddressPool(plan.dhcp_range or default_range(home), {home.ip})


def _labels(owners: Iterable[str]) -> dict[str, str]:
    return {owner: owner_label(owner, _user(owner)) for owner in owners}


def _user(owner: str) -> str:
    """Return the name of the user who an owner is, "" if it is no user with a name."""
    kind, _, number = owner.partition(":")
    if kind != "uid":
        return ""
    try:
        return pwd.getpwuid(int(number)).pw_name
    except (KeyError, ValueError, OverflowError):
        return ""
