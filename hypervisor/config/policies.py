"""Tables of policy: for whom and what they are, and what is wrong with them.

A ``[[device]]`` names one device by owner and name, and can give it addresses; a ``[[policy]]``
selects devices by owner, name or pattern, node and network, each of which may be left out. Which
of them decides is :mod:`hypervisor.mach.policy`'s to say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hypervisor.config.model import PolicyConfig
from hypervisor.config.problems import Origin, Problems, closest
from hypervisor.config.tables import OWNER_SETTINGS, SETTINGS, Table

#: For each device that is opened all of them are looked at.
MAX_POLICIES: Final = 1_024

_SELECTORS: Final = ("network", "node", "owner", "device")


def check_policies(
    policies: Sequence[Table],
    networks: Sequence[str],
    nodes: Sequence[Table],
    problems: Problems,
) -> None:
    """See that each table selects what can be, says something, and is the only one of its kind.

    ``nodes`` are the tables of everything that clients and guests connect to.
    """
    known = {os.fspath(table.value("path")): table.value("network") for table in nodes}
    seen: dict[tuple[Any, ...], Origin] = {}
    for table in policies:
        if any(key in table.refused for key in _SELECTORS):
            continue
        key = tuple(table.value(each) for each in _SELECTORS)
        if key in seen:
            problems.add(
                table.origin,
                f"this policy selects the same as the one at {seen[key]}",
                "write its settings there",
            )
        seen.setdefault(key, table.origin)
        _check_network(table, networks, problems)
        _check_node(table, known, problems)
        _check_settings(table, problems)
    if len(policies) > MAX_POLICIES:
        problems.add(policies[MAX_POLICIES].origin, f"there are more than {MAX_POLICIES} policies")


def _check_network(table: Table, networks: Sequence[str], problems: Problems) -> None:
    name = table.value("network")
    if name is not None and name not in networks:
        hint = closest(name, networks)
        problems.add(table.where("network"), f'there is no network "{name}"', hint)


def _check_node(table: Table, known: Mapping[str, str], problems: Problems) -> None:
    if (path := table.value("node")) is None:
        return
    node, network = os.fspath(path), table.value("network")
    if node not in known:
        problems.add(table.where("node"), f'there is no node "{node}"', closest(node, known))
    elif network is not None and known[node] != network:
        problems.add(
            table.where("node"),
            f'node "{node}" leads to network "{known[node]}": this policy is for nobody',
            "leave one of the two out",
        )


def _check_settings(table: Table, problems: Problems) -> None:
    written = {*table.settings, *table.refused} & {*SETTINGS}
    if not written:
        problems.add(
            table.origin, "this policy sets nothing", f"settings are {', '.join(sorted(SETTINGS))}"
        )
    if table.lacks("device"):
        return
    for key in sorted(written & {*OWNER_SETTINGS}):
        problems.add(
            table.where(key),
            f"{key} is of an owner and all his devices, and this policy is for some of them",
            "leave device out, or write it into another policy",
        )


def policy_configs(devices: Sequence[Table], policies: Sequence[Table]) -> tuple[PolicyConfig, ...]:
    """Return the frozen form of tables that were found right; of equals the first decides."""
    return tuple(_config(table, "name") for table in devices) + tuple(
        _config(table, "device") for table in policies
    )


def _config(table: Table, name: str) -> PolicyConfig:
    values = table.values()
    node = table.value("node")
    return PolicyConfig(
        where=str(table.origin),
        owner=table.value("owner") or "",
        device=table.value(name) or "",
        node="" if node is None else os.fspath(node),
        network=table.value("network") or "",
        settings={key: value for key, value in values.items() if key in _OF_RULES},
    )


#: MAC and IP addresses are one device's: only [[device]] gives them.
_OF_RULES: Final = SETTINGS.keys() | {"mac", "static_macs", "addresses"}
