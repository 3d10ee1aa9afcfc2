"""Which keys a table has, and settings that remember where they were written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypervisor.config import kinds, people, vlan_kinds
from hypervisor.config.forwards import FORWARD, FORWARDS
from hypervisor.config.kinds import BadValue, Kind, shown
from hypervisor.config.problems import Origin, Problems, closest
from hypervisor.config.rates import RATE

# What `key=value` calls a key, where that differs: `subnet=` is written once for each subnet.
_SINGULAR = {
    "forwards": "forward",
    "subnets": "subnet",
    "addresses": "address",
    "router_addresses": "router_address",
}

#: Largest MTU: a TAP's, 65,535 bytes less the Ethernet header.
MAX_MTU = 65_521

#: Bounds of slots and pool. A 14-byte header is the least a frame can be.
MAX_SLOTS = 65_536
MAX_POOL_FRAMES = 2**20
MAX_POOL_BYTES = 2**36

#: As many devices and opens as a network has at most.
MAX_DEVICES = 4_096
MAX_OPENS = 8_192

NETWORK_KEYS: Mapping[str, Kind] = {
    "name": kinds.NETWORK_NAME,
    "mode": kinds.word("hub", "switch", "router"),
    "mtu": kinds.integer(68, MAX_MTU),
    "subnets": kinds.SUBNETS,
    "guard": kinds.word("full", "mac", "off"),
    "mac_scheme": kinds.word("keyed", "hurd"),
    "pool_frames": kinds.integer(2, MAX_POOL_FRAMES),
    "pool_bytes": kinds.integer(4_096, MAX_POOL_BYTES),
    "tx_slots": kinds.integer(1, MAX_SLOTS),
    "rx_slots": kinds.integer(1, MAX_SLOTS),
    "rx_bytes": kinds.integer(1_024, MAX_POOL_BYTES),
    "hold_timeout_s": kinds.seconds(0.001, 60.0),
    "router_addresses": kinds.INTERFACES,
    "router": kinds.NETWORK_NAME,
}
TRANSLATOR_KEYS: Mapping[str, Kind] = {
    "path": kinds.PATH,
    "owner": people.USER,
    "group": people.GROUP,
    "mode": kinds.FILE_MODE,
    "network": kinds.NETWORK_NAME,
}
#: What policy can say of an owner in a network, all his devices taken together.
OWNER_SETTINGS: Mapping[str, Kind] = {
    "devices": kinds.integer(0, MAX_DEVICES),
    "opens": kinds.integer(0, MAX_OPENS),
    "pool_percent": kinds.integer(1, 100),
    "owner_frames_per_s": RATE,
    "owner_bytes_per_s": RATE,
    "owner_broadcasts_per_s": RATE,
}
#: What can be said of the port that a device or an uplink has at the switch.
PORT_SETTINGS: Mapping[str, Kind] = {
    "vlan": vlan_kinds.VID,
    "vlans": vlan_kinds.VIDS,
    "learn_limit": vlan_kinds.LEARN_LIMIT,
    "sticky": kinds.TRUTH,
}
#: What policy can say of any number of devices, and of owners.
SETTINGS: Mapping[str, Kind] = {
    "trunk": kinds.TRUTH,
    "trusted": kinds.TRUTH,
    "guard": NETWORK_KEYS["guard"],
    "prefixes": kinds.SUBNETS,
    "extra_macs": kinds.MACS,
    "ethertypes": kinds.ETHERTYPES,
    "dhcp_server": kinds.TRUTH,
    "router": kinds.TRUTH,
    "promisc": kinds.TRUTH,
    "set_address": kinds.TRUTH,
    "mtu": kinds.integer(68, MAX_MTU),
    "isolated": kinds.TRUTH,
    "frames_per_s": RATE,
    "bytes_per_s": RATE,
    "broadcasts_per_s": RATE,
    "mirror": vlan_kinds.MIRROR,
    "mirror_direction": vlan_kinds.MIRROR_DIRECTION,
    **PORT_SETTINGS,
    **OWNER_SETTINGS,
}
DEVICE_KEYS: Mapping[str, Kind] = {
    "owner": people.OWNER,
    "name": kinds.DEVICE_NAME,
    "network": kinds.NETWORK_NAME,
    "mac": kinds.MAC,
    "static_macs": kinds.MACS,
    "addresses": kinds.ADDRESSES,
    **{key: kind for key, kind in SETTINGS.items() if key not in OWNER_SETTINGS},
}
POLICY_KEYS: Mapping[str, Kind] = {
    "owner": people.ANY_OWNER,
    "device": kinds.DEVICE_PATTERN,
    "node": kinds.PATH,
    "network": kinds.NETWORK_NAME,
    **SETTINGS,
}
GUEST_KEYS: Mapping[str, Kind] = {
    "path": kinds.PATH,
    "owner": people.OWNER_UID,
    "device": kinds.DEVICE_NAME,
    "mac": kinds.MAC,
    "addresses": kinds.ADDRESSES,
    "mode": kinds.FILE_MODE,
    "network": kinds.NETWORK_NAME,
}
GATEWAY_KEYS: Mapping[str, Kind] = {
    "addresses": kinds.INTERFACES,
    "network": kinds.NETWORK_NAME,
    "host": kinds.TRUTH,
    "dhcp": kinds.DHCP,
    "dns": kinds.TRUTH,
    "ra": kinds.TRUTH,
    "nat": kinds.TRUTH,
    "forwards": FORWARDS,
}
#: What ``-p`` says.
PUBLISH_KEYS: Mapping[str, Kind] = {"forward": FORWARD, "network": kinds.NETWORK_NAME}

UPLINK_KEYS: Mapping[str, Kind] = {
    "to": kinds.UPLINK,
    "network": kinds.NETWORK_NAME,
    "addresses": kinds.INTERFACES,
    "static_macs": kinds.MACS,
    **PORT_SETTINGS,
}
ROUTE_KEYS: Mapping[str, Kind] = {
    "to": kinds.SUBNET,
    "via": kinds.ADDRESS,
    "network": kinds.NETWORK_NAME,
}
#: Ports of a VDE folder: fewer than the devices that an owner may have.
MAX_VDE_PORTS = 48
VDE_KEYS: Mapping[str, Kind] = {
    "path": kinds.PATH,
    "owner": people.OWNER_UID,
    "device": kinds.DEVICE_NAME,
    "ports": kinds.integer(1, MAX_VDE_PORTS),
    "mode": kinds.FILE_MODE,
    "network": kinds.NETWORK_NAME,
}
LISTEN_KEYS: Mapping[str, Kind] = {"endpoint": kinds.ENDPOINT, "network": kinds.NETWORK_NAME}
SERVER_KEYS: Mapping[str, Kind] = {
    "mode": NETWORK_KEYS["mode"],
    "guard": NETWORK_KEYS["guard"],
    "mac_scheme": NETWORK_KEYS["mac_scheme"],
    "insecure_loopback": kinds.TRUTH,
    "tls_cert": kinds.PATH,
    "tls_key": kinds.PATH,
    "tls_client_ca": kinds.PATH,
    "state": kinds.PATH,
    "log_format": kinds.word("text", "json"),
    "ready_fd": kinds.integer(0, 2**31 - 1),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A value that was read, and where it was written; ``items`` are the places of a list's."""

    value: Any
    origin: Origin
    items: tuple[Origin, ...] = ()


@dataclass(slots=True)
class Table:
    """Settings of one network, translator, device or of the server, by key."""

    origin: Origin
    settings: dict[str, Setting] = field(default_factory=dict)
    # Keys that were written with a value that was refused: named once, not missing as well.
    refused: set[str] = field(default_factory=set)

    def lacks(self, key: str) -> bool:
        """Tell whether a key was not written at all."""
        return key not in self.settings and key not in self.refused

    def value(self, key: str) -> Any:
        """Return the value of a key, None if it was not written."""
        setting = self.settings.get(key)
        return setting.value if setting is not None else None

    def where(self, key: str) -> Origin:
        """Return where a key was written, or where the table was."""
        setting = self.settings.get(key)
        return setting.origin if setting is not None else self.origin

    def values(self) -> dict[str, Any]:
        """Return all values by key."""
        return {key: setting.value for key, setting in self.settings.items()}

    def guest(self, kind: str) -> Table:
        """Return this table of a guest's socket, with the kind that its place names."""
        self.settings["kind"] = Setting(kind, self.origin)
        return self

    def over(self, below: Table) -> Table:
        """Return this table laid over another: its settings win, its place stays."""
        return Table(self.origin, below.settings | self.settings, below.refused | self.refused)


@dataclass(slots=True)
class Draft:
    """All tables of one source, or of several laid over each other."""

    server: Table
    networks: list[Table] = field(default_factory=list)
    translators: list[Table] = field(default_factory=list)
    devices: list[Table] = field(default_factory=list)
    policies: list[Table] = field(default_factory=list)
    #: Guests' sockets; what kind each is, its setting "kind" says.
    guests: list[Table] = field(default_factory=list)
    vdes: list[Table] = field(default_factory=list)
    gateways: list[Table] = field(default_factory=list)
    published: list[Table] = field(default_factory=list)
    listen: list[Table] = field(default_factory=list)
    uplinks: list[Table] = field(default_factory=list)
    routes: list[Table] = field(default_factory=list)


def read_table(
    raw: Mapping[str, object],
    keys: Mapping[str, Kind],
    origin: Origin,
    locate: Callable[..., Origin],
    problems: Problems,
) -> Table:
    """Read the keys of a TOML table; ``locate(key, ...)`` tells where a key or element is."""
    table = Table(origin)
    for key, value in raw.items():
        kind = keys.get(key)
        if kind is None:
            problems.add(locate(key), f'unknown key "{key}"', closest(key, keys))
        elif kind.many:
            _read_many(table, key, value, kind, locate, problems)
        else:
            try:
                table.settings[key] = Setting(kind.read(value), locate(key))
            except BadValue as bad:
                table.refused.add(key)
                problems.add(locate(key), f"{key}: {bad.message}", bad.hint)
    return table


def _read_many(
    table: Table,
    key: str,
    value: object,
    kind: Kind,
    locate: Callable[..., Origin],
    problems: Problems,
) -> None:
    if not isinstance(value, list):
        hint = f'write {key} = ["{value}"]' if isinstance(value, str) else ""
        problems.add(locate(key), f"{key}: {shown(value)} is not an array", hint)
        return
    values, places = [], []
    for index, element in enumerate(value):
        try:
            values.append(kind.read(element))
            places.append(locate(key, index))
        except BadValue as bad:
            problems.add(locate(key, index), f"{key}: {bad.message}", bad.hint)
    table.settings[key] = Setting(tuple(values), locate(key), tuple(places))


def read_words(
    text: str, head: str, keys: Mapping[str, Kind], origin: Origin, problems: Problems
) -> Table | None:
    """Read ``HEAD,key=value,...``, how a flag writes a table; None if even the head is wrong.

    A head of which there may be many is the first of them; what else has a slash and no ``=`` is
    the next. A value cannot hold a comma; the file has no such limit.
    """
    first, *rest = text.split(",")
    table = Table(origin)
    many = keys[head].many
    try:
        value = keys[head].read(keys[head].from_text(first))
    except BadValue as bad:
        problems.add(origin, bad.message, bad.hint)
        return None
    table.settings[head] = Setting((value,) if many else value, origin, (origin,) if many else ())
    by_word = {_SINGULAR.get(key, key): key for key in keys if key != head or many}
    for part in rest:
        word, equals, value = part.partition("=")
        key = by_word.get(word)
        if not equals and key is not None and keys[key].alone:
            _set_word(table, key, word, keys[key].alone, keys[key], problems)
        elif not equals and many and "/" in part:
            _set_word(table, head, head, part, keys[head], problems)
        elif not equals:
            problems.add(origin, f'"{part}" is not a setting', "write key=value after each comma")
        elif key is None:
            problems.add(origin, f'unknown setting "{word}"', closest(word, by_word))
        else:
            _set_word(table, key, word, value, keys[key], problems)
    return table


def _set_word(table: Table, key: str, word: str, text: str, kind: Kind, problems: Problems) -> None:
    before = table.settings.get(key)
    if before is not None and not kind.many:
        problems.add(table.origin, f'"{word}" is given twice')
        return
    try:
        value = kind.read(kind.from_text(text))
    except BadValue as bad:
        table.refused.add(key)
        problems.add(table.origin, f"{word}: {bad.message}", bad.hint)
        return
    if not kind.many:
        table.settings[key] = Setting(value, table.origin)
        return
    values = before.value if before is not None else ()
    places = before.items if before is not None else ()
    table.settings[key] = Setting((*values, value), table.origin, (*places, table.origin))
