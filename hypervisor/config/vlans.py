"""VLANs of a whole configuration: what contradicts what, and how many there may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypervisor.config.problems import Problems
from hypervisor.config.tables import Table

#: Each VLAN of a network has a forwarding table of its own.
MAX_VLANS: Final = 64


def check_vlans(networks: Sequence[Table], tables: Sequence[Table], problems: Problems) -> None:
    """See that nobody is with and without tags, and that no network has too many VLANs.

    ``tables`` are those of devices, policies and uplinks; a policy that names no network is for
    each.
    """
    used: dict[str, set[int]] = {str(table.value("name")): set() for table in networks}
    routed = {table.value("name") for table in networks if table.value("mode") == "router"}
    for table in tables:
        vids = {*(table.value("vlans") or ())}
        if table.value("vlan") is not None:
            if not table.lacks("vlans"):
                problems.add(
                    table.where("vlans"),
                    "vlan is for frames without tags, vlans for frames with one: both at once "
                    "would be a native VLAN, from which one can hop",
                    "leave one of them out",
                )
            vids.add(table.value("vlan"))
        if not table.lacks("vlans") and table.value("vlans") == ():
            problems.add(table.where("vlans"), "vlans is empty", "name a VLAN, or leave it out")
        network = table.value("network")
        for name in used if network is None else [network]:
            if vids and name in routed:
                where = table.where("vlan" if table.value("vlan") is not None else "vlans")
                problems.add(
                    where,
                    f'network "{name}" is of mode "router", which has no VLANs',
                    "leave it out",
                )
            before = len(used.get(name, ()))
            used.setdefault(name, set()).update(vids)
            if before <= MAX_VLANS < len(used[name]):
                problems.add(table.origin, f'network "{name}" has more than {MAX_VLANS} VLANs')
