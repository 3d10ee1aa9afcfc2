"""Guests' sockets, VDE folders: what their tables leave out, and what two of them cannot share."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypervisor.config.model import GuestConfig, VdeConfig
from hypervisor.config.problems import Origin, Problems
from hypervisor.config.tables import Setting, Table

_SUFFIX = re.compile(r"\.(?:sock|socket)$")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]")
_MAX_NAME = 127

#: Settings of a socket that are its device's.
_OF_DEVICE = ("mac", "addresses")


def device_name(path: Path) -> str:
    """Return the name of the device behind a socket that names none: the file's, without .sock.

    So that it stays when sockets are added or put in another order, and with it the MAC address.
    """
    return _NOT_IN_A_NAME.sub("-", _SUFFIX.sub("", path.name) or path.name)[:_MAX_NAME]


def settle_guests(
    guests: Sequence[Table], devices: list[Table], nodes: Sequence[Table], problems: Problems
) -> None:
    """Fill in owners and devices; see that no two are one device or one path.

    A MAC address and IP addresses of a guest's socket become the policy of its device, in
    ``devices``.
    """
    paths = {table.value("path"): table.where("path") for table in nodes}
    taken: dict[tuple[Any, ...], Origin] = {}
    for table in guests:
        path = table.value("path")
        if path in paths:
            problems.add(table.where("path"), f'"{path}" is also at {paths[path]}')
        paths[path] = table.where("path")
        if table.lacks("owner"):
            table.settings["owner"] = Setting(os.geteuid(), table.origin)
        if table.lacks("device"):
            table.settings["device"] = Setting(device_name(path), table.origin)
        if not {"owner", "device"} <= table.settings.keys():
            continue
        owner, device = f"uid:{table.value('owner')}", table.value("device")
        key = (table.value("network"), owner, device)
        if key in taken:
            problems.add(
                table.where("device"),
                f'device "{device}" of {owner} is also the guest\'s at {taken[key]}',
                "give each socket a device of its own: device=NAME",
            )
        taken[key] = table.where("device")
        given = {name: table.settings[name] for name in _OF_DEVICE if name in table.settings}
        if given:
            _give(table, key, given, devices, problems)


def _give(
    table: Table,
    key: tuple[Any, ...],
    given: dict[str, Setting],
    devices: list[Table],
    problems: Problems,
) -> None:
    for device in devices:
        if key == _key(device):
            for name, setting in given.items():
                other = device.settings.setdefault(name, setting)
                if other.value != setting.value:
                    problems.add(
                        setting.origin,
                        f"the device has {_shown(name, other.value)} at {other.origin}",
                        "leave one of them out",
                    )
            return
    made = Table(table.origin, dict(given))
    for name, value in zip(("network", "owner", "name"), key, strict=True):
        made.settings[name] = Setting(value, table.origin)
    devices.append(made)


def _shown(name: str, value: Any) -> str:
    if name == "mac":
        return f"the MAC {value.hex(':')}"
    return f"the addresses {', '.join(map(str, value))}"


def settle_vdes(vdes: Sequence[Table], devices: list[Table]) -> list[Table]:
    """Fill in what is left out of the tables of VDE folders; return those of their sockets' paths.

    Each port is a trunk by policy, added to ``devices``, unless there is a policy for it already.
    """
    known = {_key(device) for device in devices}
    longest = []
    for table in vdes:
        path = table.value("path")
        socket_path = Setting(path / "000.data", table.where("path"))
        longest.append(Table(table.origin, {"path": socket_path}))
        for key, value in (("owner", os.geteuid()), ("device", device_name(path)), ("ports", 16)):
            if table.lacks(key):
                table.settings[key] = Setting(value, table.origin)
        if not {"owner", "device", "ports", "network"} <= table.settings.keys():
            continue
        for number in range(1, table.value("ports") + 1):
            port = {
                "network": table.value("network"),
                "owner": f"uid:{table.value('owner')}",
                "name": f"{table.value('device')}-{number}",
                "trunk": True,
            }
            made = Table(
                table.origin, {key: Setting(value, table.origin) for key, value in port.items()}
            )
            if _key(made) not in known:
                devices.append(made)
    return longest


def _key(device: Table) -> tuple[Any, ...]:
    return tuple(device.value(one) for one in ("network", "owner", "name"))


def vde_config(table: Table) -> VdeConfig:
    """Return the frozen form of a table that was found right."""
    return VdeConfig(**table.values())


def guest_config(table: Table) -> GuestConfig:
    """Return the frozen form of a table that was found right."""
    values = table.values()
    for name in _OF_DEVICE:
        values.pop(name, None)
    return GuestConfig(**values)
