"""Keeps the leases of networks on disk, and gives them back after a restart.

A network counts in monotonic seconds, the file in Unix time; both clocks meet here and nowhere
else. What the file does when somebody sets the clock: :meth:`hypervisor.store.LeaseStore
.follow_clock`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable

from hypervisor.mach import leases
from hypervisor.network import Network
from hypervisor.store import Lease, LeaseStore, StoreError

log = logging.getLogger(__name__)


class LeaseBook:
    """The leases of a runtime's networks, in ``store`` (None: nothing is kept).

    ``clock`` is monotonic seconds, ``wall`` Unix time. Only :meth:`restore` raises: later on a
    lease stands while the server runs, and only its survival is at risk.
    """

    def __init__(
        self,
        store: LeaseStore | None,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._store = store
        self._clock = clock
        self._wall = wall

    def restore(self, networks: Iterable[Network]) -> None:
        """Give networks the leases they had. Raises StoreError."""
        if self._store is None:
            return
        wall, now = self._wall(), self._clock()
        by_name = {network.name: network for network in networks}
        self._store.follow_clock(wall)
        for lease in self._store.load(wall):
            network = by_name.get(lease.network)
            if network is None:
                continue
            network.addresses.restore(
                lease.address,
                lease.owner,
                now - (wall - lease.last_used_s),
                name=lease.device,
                mac=lease.mac,
                term_s=lease.term_s,
                expires=math.inf if lease.expires_s is None else now + (lease.expires_s - wall),
            )

    def keep(self, network: Network) -> None:
        """Write down what has changed in a network."""
        changes = list(network.addresses.changes)
        network.addresses.changes.clear()
        if self._store is None:
            return
        wall = self._wall()
        try:
            self._store.follow_clock(wall)
            for change in changes:
                if change.lease is None:
                    self._store.delete(network.name, change.address)
                else:
                    self._store.save(self._kept(network.name, change.lease, wall))
        except StoreError as error:
            log.error("leases are not kept: %s", error)

    def touch(self, networks: Iterable[Network]) -> None:
        """Note what is in use now."""
        if self._store is None:
            return
        wall = self._wall()
        try:
            self._store.follow_clock(wall)
            for network in networks:
                self._store.touch(network.name, network.addresses.in_use(), wall)
        except StoreError as error:
            log.error("leases are not kept: %s", error)

    def _kept(self, network: str, lease: leases.Lease, wall: float) -> Lease:
        """Return a lease that has changed just now as it is kept."""
        is_dhcp = lease.kind is leases.LeaseKind.DHCP
        return Lease(
            network,
            str(lease.address),
            lease.owner,
            wall,
            lease.name,
            lease.mac,
            lease.term_s if is_dhcp else None,
            wall + (lease.expires - self._clock()) if is_dhcp else None,
        )
