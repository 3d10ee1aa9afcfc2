"""The whole configuration: sources laid over each other, defaults filled in, everything judged.

Flags win over the file, setting by setting: ``--network lan,mtu=9000`` changes the MTU of the
file's network "lan" and leaves the rest of it; a name that the file has not is a new network.
Translators go by path likewise. ``--guard`` and ``--mac-scheme`` win over what the file says for
any network, and lose against the same setting inside a ``--network``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypervisor.config.checks import (
    check_devices,
    check_gateways,
    check_networks,
    check_socket_paths,
)
from hypervisor.config.files import read_file
from hypervisor.config.flags import FlagValues, read_flags
from hypervisor.config.gateways import check_services, publish
from hypervisor.config.guests import guest_config, settle_guests, settle_vdes, vde_config
from hypervisor.config.listening import check_listener, listen_config, tls_config
from hypervisor.config.model import (
    DEFAULT_NETWORK,
    GatewayConfig,
    NetworkConfig,
    PolicyConfig,
    RouteConfig,
    ServerConfig,
    TranslatorConfig,
    UplinkConfig,
)
from hypervisor.config.policies import check_policies, policy_configs
from hypervisor.config.problems import ConfigError, Origin, Problems, closest
from hypervisor.config.routers import settle_routers
from hypervisor.config.tables import Draft, Setting, Table
from hypervisor.config.vlans import check_vlans
from hypervisor.kernel.places import current_places

_DEFAULTS = Origin("the defaults")
# Settings of the server that are defaults for its networks.
_SHARED = ("mode", "guard", "mac_scheme")


def load_config(
    path: Path | None, flags: FlagValues, inherited: Mapping[Path, str] | None = None
) -> ServerConfig:
    """Read a file (None: no file) and flags into a configuration.

    ``inherited`` are the nodes that a service manager has made already, each with the name it
    gave (a network's name says which network is meant). Those that nothing configures are added,
    and with any the default node is left out. Raises ConfigError with every mistake found.
    """
    problems = Problems()
    above = read_flags(flags, problems)
    below = Draft(Table(_DEFAULTS))
    if path is not None:
        try:
            below = read_file(path, problems)
        except ConfigError as error:
            raise ConfigError([*problems.found, *error.problems]) from error
    node, state = current_places()
    return build_config(above, below, node, state, problems, inherited)


def build_config(
    above: Draft,
    below: Draft,
    default_node: Path,
    default_state: Path,
    problems: Problems,
    inherited: Mapping[Path, str] | None = None,
) -> ServerConfig:
    """Lay ``above`` over ``below`` and the defaults; raises ConfigError with all ``problems``."""
    networks = _networks(above, below, problems)
    names = [str(table.value("name")) for table in networks]
    translators = _nodes(above, below, default_node, inherited or {}, names, problems)
    uplinks = _overlay("uplink", above.uplinks, below.uplinks, "to", problems)
    devices = list(below.devices)
    guests = _overlay("guest", above.guests, below.guests, "path", problems)
    vdes = _overlay("VDE folder", above.vdes, below.vdes, "path", problems)
    routes = above.routes + below.routes
    listen = (above.listen or below.listen)[:1]
    in_networks = {
        "node": translators,
        "device": devices,
        "guest": guests,
        "VDE folder": vdes,
        "gateway": above.gateways + below.gateways,
        "port": above.published,
        "uplink": uplinks,
        "route": routes,
        "listener": listen,
    }
    _settle_networks(in_networks, names, problems)
    settle_guests(guests, devices, translators, problems)
    vde_sockets = settle_vdes(vdes, devices)
    gateways = _gateways(above, below, problems)
    publish(above.published, gateways, names, problems)
    server = above.server.over(below.server)
    check_listener(server, listen, problems)
    check_networks(networks, problems)
    check_socket_paths([*translators, *guests, *vde_sockets], problems)
    check_devices(devices, networks, problems)
    check_policies(below.policies, names, [*translators, *guests, *vdes], problems)
    check_gateways(gateways, networks, devices, problems)
    check_vlans(networks, [*devices, *below.policies, *uplinks], problems)
    settle_routers(networks, routes, uplinks, [*devices, *gateways], problems)
    check_services(gateways, devices, problems)
    problems.raise_if_any()
    return _frozen(
        server,
        networks,
        translators,
        policy_configs(devices, below.policies),
        guests,
        vdes,
        gateways,
        uplinks,
        routes,
        listen,
        default_state,
    )


def _nodes(
    above: Draft,
    below: Draft,
    default: Path,
    inherited: Mapping[Path, str],
    names: Sequence[str],
    problems: Problems,
) -> list[Table]:
    """Return the nodes, those that a service manager has opened among them, or the default one."""
    nodes = _overlay("translator", above.translators, below.translators, "path", problems)
    _add_inherited(nodes, inherited, names)
    if nodes:
        return nodes
    origin = above.server.origin
    return [Table(origin, {"path": Setting(default, origin)})]


def _networks(above: Draft, below: Draft, problems: Problems) -> list[Table]:
    """Return all networks, or the default one, with what the server says for all filled in."""
    _need(above.networks + below.networks, "network", "name", problems)
    upper = _unique(above.networks, "name", problems)
    lower = _unique(below.networks, "name", problems)
    shared_below = _shared(below.server)
    lower = {name: table.over(shared_below) for name, table in lower.items()}
    shared_above = _shared(above.server)
    networks = {name: shared_above.over(table) for name, table in lower.items()}
    for name, table in upper.items():
        networks[name] = table.over(networks.get(name, shared_above.over(shared_below)))
    if not networks:
        origin = above.server.origin
        table = Table(origin, {"name": Setting(DEFAULT_NETWORK, origin)})
        networks[DEFAULT_NETWORK] = table.over(shared_above.over(shared_below))
    return list(networks.values())


def _shared(server: Table) -> Table:
    settings = {key: value for key, value in server.settings.items() if key in _SHARED}
    return Table(server.origin, settings)


def _overlay(
    what: str, above: Sequence[Table], below: Sequence[Table], key: str, problems: Problems
) -> list[Table]:
    """Lay tables that go by the value of ``key`` over each other."""
    _need(below, what, key, problems)
    merged: dict[Any, Table] = _unique(below, key, problems)
    for value, table in _unique(above, key, problems).items():
        merged[value] = table.over(merged[value]) if value in merged else table
    return list(merged.values())


def _gateways(above: Draft, below: Draft, problems: Problems) -> list[Table]:
    """Return the gateways, one of each network; their networks are settled."""
    _need(below.gateways, "gateway", "addresses", problems)
    merged = _unique(below.gateways, "network", problems)
    for network, table in _unique(above.gateways, "network", problems).items():
        merged[network] = table.over(merged[network]) if network in merged else table
    return list(merged.values())


def _add_inherited(
    translators: list[Table], inherited: Mapping[Path, str], names: Sequence[str]
) -> None:
    known = {table.value("path") for table in translators}
    for path, name in inherited.items():
        if path not in known:
            origin = Origin(f"inherited socket {path}")
            table = Table(origin, {"path": Setting(path, origin)})
            if name in names:
                table.settings["network"] = Setting(name, origin)
            translators.append(table)


def _need(tables: Sequence[Table], what: str, key: str, problems: Problems) -> None:
    for table in tables:
        if table.lacks(key):
            problems.add(table.origin, f'this {what} has no "{key}"')


def _unique(tables: Sequence[Table], key: str, problems: Problems) -> dict[Any, Table]:
    """Return tables by the value of a key; tables without it are left out, second ones named."""
    unique: dict[Any, Table] = {}
    for table in tables:
        value = table.value(key)
        if value is None:
            continue
        if value in unique:
            problems.add(table.where(key), f'"{value}" is also at {unique[value].where(key)}')
        else:
            unique[value] = table
    return unique


def _settle_networks(
    in_networks: Mapping[str, Sequence[Table]], names: Sequence[str], problems: Problems
) -> None:
    for what, tables in in_networks.items():
        for table in tables:
            _settle_network(table, what, names, problems)


def _settle_network(table: Table, what: str, names: Sequence[str], problems: Problems) -> None:
    """See that a table names a network that there is; one network needs no naming."""
    name = table.value("network")
    if name is not None and name not in names:
        problems.add(table.where("network"), f'there is no network "{name}"', closest(name, names))
    elif table.lacks("network") and len(names) == 1:
        table.settings["network"] = Setting(names[0], table.origin)
    elif table.lacks("network"):
        form = 'network = "{}"' if table.origin.line else "network={}"
        choices = " or ".join(form.format(one) for one in names)
        problems.add(table.origin, f"this {what} names none of several networks", f"add {choices}")


def _frozen(
    server: Table,
    networks: Sequence[Table],
    translators: Sequence[Table],
    policies: tuple[PolicyConfig, ...],
    guests: Sequence[Table],
    vdes: Sequence[Table],
    gateways: Sequence[Table],
    uplinks: Sequence[Table],
    routes: Sequence[Table],
    listen: Sequence[Table],
    default_state: Path,
) -> ServerConfig:
    return ServerConfig(
        translators=tuple(_translator(table) for table in translators),
        networks=_each(NetworkConfig, networks),
        state=server.value("state") or default_state,
        policies=policies,
        guests=tuple(guest_config(table) for table in guests),
        vdes=tuple(vde_config(table) for table in vdes),
        gateways=_each(GatewayConfig, gateways),
        listen=listen_config(listen[0]) if listen else None,
        tls=tls_config(server),
        uplinks=tuple(_uplink(one) for one in uplinks),
        routes=_each(RouteConfig, routes),
        insecure_loopback=bool(server.value("insecure_loopback")),
        log_format=server.value("log_format") or "text",
        ready_fd=server.value("ready_fd"),
    )


def _each(make: Callable[..., Any], tables: Sequence[Table]) -> tuple[Any, ...]:
    return tuple(make(**table.values()) for table in tables)


def _translator(table: Table) -> TranslatorConfig:
    """Fill in the mode: a node given to a group is for that group."""
    values = table.values()
    values.setdefault("mode", 0o660 if "group" in values else 0o600)
    return TranslatorConfig(**values)


def _uplink(table: Table) -> UplinkConfig:
    values = table.values()
    return UplinkConfig(values.pop("to"), **values)
