"""Whom dnsmasq asks for names that are not of the network: the machine's resolvers, by the way out.

One of the machine's own (systemd-resolved listens to 127.0.0.53 only) cannot be reached from a
namespace; pasta hands questions to a stand-in over to it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from hypervisor.config.model import Address
from hypervisor.gateway.plan import RESOLVER_STAND_INS, GatewayPlan

RESOLV_CONF = "/etc/resolv.conf"
_MAX_BYTES = 64 << 10


class Resolvers:
    """The machine's resolvers, for a gateway whose way out carries ``versions`` of IP.

    ``hosts`` are the machine's own addresses.
    """

    def __init__(
        self,
        plan: GatewayPlan,
        versions: Collection[int],
        hosts: Collection[Address],
        path: str = RESOLV_CONF,
    ) -> None:
        self._path = path if plan.dns and versions else ""
        self._versions = versions
        self._hosts = hosts
        self._found = self._read()

    @property
    def servers(self) -> str:
        """Whom to ask, as a text for dnsmasq."""
        asked = [each for each in self._found if not self._is_own(each)]
        return "".join(f"server={each}\n" for each in (*asked, *self.stand_ins))

    @property
    def stand_ins(self) -> tuple[Address, ...]:
        """The addresses at which pasta has to take questions for the machine's own resolver.

        It hands them to the first resolver of that version of IP, and whatever that one says
        seems to come from there: another could not be asked directly any more.
        """
        first = {each.version: each for each in reversed(self._found)}
        return tuple(
            each
            for each in RESOLVER_STAND_INS
            if each.version in self._versions
            and each.version in first
            and self._is_own(first[each.version])
        )

    def changed(self) -> bool:
        """Look again; tell whether they are others than before."""
        before, self._found = self._found, self._read()
        return before != self._found

    def _is_own(self, address: Address) -> bool:
        return address.is_loopback or address in self._hosts

    def _read(self) -> tuple[Address, ...]:
        if not self._path:
            return ()
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                return name_servers(file.read(_MAX_BYTES))
        except OSError:
            return ()  # a machine without: only the network's own names are known


def name_servers(text: str) -> tuple[Address, ...]:
    """Return the name servers of a resolv.conf(5), those of one link left out."""
    found: list[Address] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver" and "%" not in words[1]:
            try:
                found.append(ipaddress.ip_address(words[1]))
            except ValueError:
                continue  # the machine's own programs make nothing of it either
    return tuple(dict.fromkeys(found))
