"""What the operator decided: rules for whom and what they were written, and which of them wins.

Theory of operation. A *rule* is one table of the configuration: *selectors* (who, which device, by
which node) and *settings*. For a device that is opened all rules are looked at whose selectors
fit, and each setting is taken, whole, from the most specific rule that has it:

1. by owner: a user or a certificate, before a group, before anybody;
2. then by device: its name, before a pattern, before any;
3. then by node: this one, before any;
4. then by network: this one, before all;
5. and among equals the rule that was written first.

The owner comes before all else because the kernel, or a certificate, vouches for him, while he
chooses his devices' names and often his node: no name that he finds gives him more than rules for
him allow. For the same reason a group should be used to grant: a process can leave groups behind.

A *decided* device (:class:`DevicePolicy`) is the server's own, like that of a gateway: no rule
touches it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

DEVICES_PER_OWNER: Final = 64
OPENS_PER_OWNER: Final = 256

#: Any run of characters, also none, in the pattern of a device's name.
WILDCARD: Final = "*"
GROUP: Final = "gid:"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who comes, as the kernel or a certificate vouches for it.

    ``owner`` as in :class:`~hypervisor.requests.Caller`; ``groups`` are his groups' numbers when
    he connected, ``node`` is what he connected to ("" for what the server opens itself).
    """

    owner: str
    groups: frozenset[int] = frozenset()
    node: str = ""


@dataclass(frozen=True, slots=True)
class DevicePolicy:
    """What is allowed to one device. ``owner`` as in :class:`~hypervisor.requests.Caller`.

    ``guard`` is None for the network's preset. What can be opened, each by itself: ``prefixes``
    (ranges of source addresses), ``extra_macs``, ``ethertypes``, ``dhcp_server``, ``router``,
    ``promisc`` (it may hear others' unicast), ``set_address`` (it may change its MAC), and
    ``trunk``, which is everything. An ``isolated`` device meets only uplinks and routers, unless
    it is a router.

    What it sends is limited in ``frames_per_s``, ``bytes_per_s`` and ``broadcasts_per_s`` (group
    frames); 0 is no limit, and None what :mod:`hypervisor.quotas` thinks right.

    It is in one ``vlan`` without tags, in ``vlans`` with tags, or in none. ``mirror`` names those
    whose frames it gets copies of, as "OWNER/NAME" or "*", and ``mirror_direction`` says of which:
    those that they send "in" to the network, are given "out" of it, or both. ``learn_limit`` is
    how many addresses are learned behind it (0: the table's own limit); ``sticky`` ones move to no
    other port before they age; ``static_macs`` are there for good, and its own to send from.
    ``mtu`` is the IP MTU in bytes of the way to it, if less than the network's (0: that).
    """

    owner: str
    name: str
    mac: bytes | None = None
    addresses: tuple[str, ...] = ()
    trunk: bool = False
    trusted: bool = False
    guard: Literal["full", "mac", "off"] | None = None
    prefixes: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    extra_macs: tuple[bytes, ...] = ()
    ethertypes: tuple[int, ...] = ()
    dhcp_server: bool = False
    router: bool = False
    promisc: bool = False
    set_address: bool = False
    isolated: bool = False
    frames_per_s: int = 0
    bytes_per_s: int = 0
    broadcasts_per_s: int | None = None
    vlan: int = 0
    vlans: tuple[int, ...] = ()
    mirror: tuple[str, ...] = ()
    mirror_direction: Literal["in", "out", "both"] = "both"
    mtu: int = 0
    learn_limit: int = 0
    sticky: bool = False
    static_macs: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnerPolicy:
    """What is allowed to one owner in one network: how many ``devices`` and ``opens`` of them.

    With a ``pool_percent`` he holds no more than that part of the frame pool, in frames and in
    bytes. The rates are of all his devices together. 0 is no limit in both.
    """

    devices: int = DEVICES_PER_OWNER
    opens: int = OPENS_PER_OWNER
    pool_percent: int = 0
    owner_frames_per_s: int = 0
    owner_bytes_per_s: int = 0
    owner_broadcasts_per_s: int = 0


#: Settings by what they are of. A rule that selects devices has none of an owner.
DEVICE_SETTINGS: Final = frozenset(each.name for each in fields(DevicePolicy)) - {"owner", "name"}
#: Of these two a device has one: the more specific rule decides which.
_ALTERNATIVES: Final = {"vlan": "vlans", "vlans": "vlan"}
OWNER_SETTINGS: Final = frozenset(each.name for each in fields(OwnerPolicy))


@dataclass(frozen=True, slots=True)
class Rule:
    """One table of the configuration, of a network or of all.

    ``where`` it stands, for people. Selectors are "" for any: ``owner`` is an owner's name or
    "gid:" and a number, ``device`` a name or a pattern with :data:`WILDCARD`, ``node`` a node's
    path; ``network`` is true if the rule is for this network only. The names of ``settings`` are
    the fields of :class:`DevicePolicy` and :class:`OwnerPolicy`.
    """

    where: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    owner: str = ""
    device: str = ""
    node: str = ""
    network: bool = False

    @property
    def rank(self) -> tuple[int, int, int, int]:
        """How specific it is: the higher the more."""
        return (
            1 if self.owner.startswith(GROUP) else 2 * bool(self.owner),
            1 if WILDCARD in self.device else 2 * bool(self.device),
            int(bool(self.node)),
            int(self.network),
        )

    def selects_owner(self, who: Identity) -> bool:
        """Tell whether it is for what ``who`` opens, by whichever name."""
        if self.node and self.node != who.node:
            return False
        if self.owner.startswith(GROUP):
            return int(self.owner[len(GROUP) :]) in who.groups
        return not self.owner or self.owner == who.owner

    def selects(self, who: Identity, name: str) -> bool:
        """Tell whether it is for the device that ``who`` opens as ``name``."""
        return self.selects_owner(who) and (not self.device or fits(self.device, name))

    @property
    def selectors(self) -> str:
        """For whom and what it is, in words."""
        said = [
            f"{what} {value}"
            for what, value in (("owner", self.owner), ("device", self.device), ("node", self.node))
            if value
        ]
        if not said:
            return "this network" if self.network else "all"
        return ", ".join(said)


def fits(pattern: str, name: str) -> bool:
    """Tell whether a name is that of a pattern, in which each ``*`` is any run of characters.

    Takes time in proportion to the two lengths multiplied, at most.
    """
    first, *rest = pattern.split(WILDCARD)
    if not rest:
        return pattern == name
    *middle, last = rest
    end = len(name) - len(last)
    if not name.startswith(first) or not name.endswith(last) or end < len(first):
        return False
    at = len(first)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


class PolicyBook:
    """All that was decided for one network. Never changes; a new policy is a new book."""

    def __init__(self, decided: Iterable[DevicePolicy] = (), rules: Iterable[Rule] = ()) -> None:
        self._decided = {(each.owner, each.name): each for each in decided}
        #: Most specific first; sorting keeps the order of equals.
        self.rules = tuple(sorted(rules, key=lambda rule: rule.rank, reverse=True))
        # There may be thousands of tables for single devices: they are looked up.
        self._of_device: dict[tuple[str, str], list[Rule]] = {}
        self._general: list[Rule] = []
        for rule in self.rules:
            if rule.rank[:2] == (2, 2):
                self._of_device.setdefault((rule.owner, rule.device), []).append(rule)
            else:
                self._general.append(rule)

    def with_rules(self, rules: Iterable[Rule]) -> PolicyBook:
        """Return a book with other rules; what the server decided itself stays."""
        return PolicyBook(self._decided.values(), rules)

    def decided(self, owner: str, name: str) -> DevicePolicy | None:
        """Return what the server itself decided for a device, if it did."""
        return self._decided.get((owner, name))

    def device(self, who: Identity, name: str) -> DevicePolicy:
        """Return what is allowed to the device that ``who`` opens as ``name``."""
        decided = self._decided.get((who.owner, name))
        if decided is not None:
            return decided
        settings = {key: rule.settings[key] for key, rule in self.deciding(who, name).items()}
        return DevicePolicy(who.owner, name, **settings)

    def owner(self, who: Identity) -> OwnerPolicy:
        """Return what is allowed to ``who`` as an owner."""
        settings: dict[str, Any] = {}
        if any(owner == who.owner for owner, _ in self._decided):
            return OwnerPolicy()  # the server itself
        for rule in self._general:
            if not rule.device and rule.selects_owner(who):
                for key in rule.settings.keys() & OWNER_SETTINGS:
                    settings.setdefault(key, rule.settings[key])
        return OwnerPolicy(**settings)

    def deciding(self, who: Identity, name: str) -> Mapping[str, Rule]:
        """Return which rule decides each of a device's settings that any rule does."""
        if (who.owner, name) in self._decided:
            return {}
        deciding: dict[str, Rule] = {}
        for rule in (*self._of_device.get((who.owner, name), ()), *self._general):
            if rule.selects(who, name):
                for key in rule.settings.keys() & DEVICE_SETTINGS:
                    if _ALTERNATIVES.get(key) not in deciding:
                        deciding.setdefault(key, rule)
        return deciding

    def is_named(self, owner: str, name: str) -> bool:
        """Tell whether the device is one of those that were named."""
        return (owner, name) in self._decided or (owner, name) in self._of_device

    def named(self) -> Iterator[DevicePolicy]:
        """Yield what is allowed to each device that was named: only these have addresses."""
        yield from self._decided.values()
        for owner, name in self._of_device:
            if (owner, name) not in self._decided:
                yield self.device(Identity(owner), name)
