"""From configured values to living objects: the networks, and the runtime that owns them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from ipaddress import ip_network

from hypervisor.config.gateways import announced
from hypervisor.config.model import (
    GatewayConfig,
    NetworkConfig,
    PolicyConfig,
    ServerConfig,
    UplinkConfig,
)
from hypervisor.engine.quotas import Limits
from hypervisor.forwarding import RouteTable
from hypervisor.gateway.plan import GATEWAY_DEVICE, GATEWAY_OWNER
from hypervisor.links.data_path import DataPath
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.policy import DevicePolicy, Rule
from hypervisor.network import Network, NetworkOptions
from hypervisor.routing import RouterOptions
from hypervisor.runtime import Runtime
from hypervisor.store import LeaseStore

#: Set to "python" in the environment, it keeps the server from using compiled code.
DATA_PATH = "MACHDEV_DATA_PATH"


def make_runtime(
    config: ServerConfig, secrets: Mapping[str, bytes], leases: LeaseStore | None
) -> Runtime:
    """Return the runtime of all configured networks; ``secrets`` are by network name.

    Call it in the event loop that will run it. Raises StoreError if the leases cannot be read.
    """
    tables: dict[str, RouteTable] = {}
    networks = [
        make_network(
            network,
            config.policies,
            secrets[network.name],
            config.gateways,
            router_options(network, config, tables),
            config.uplinks,
        )
        for network in config.networks
    ]
    return Runtime(networks, leases=leases, path=data_path(os.environ))


def data_path(environment: Mapping[str, str]) -> DataPath:
    """Return the compiled data path if it is there, or Python's if :data:`DATA_PATH` says so."""
    return DataPath(compiled=environment.get(DATA_PATH) != "python")


def make_network(
    config: NetworkConfig,
    policies: Sequence[PolicyConfig],
    secret: bytes,
    gateways: Sequence[GatewayConfig] = (),
    router: RouterOptions | None = None,
    uplinks: Sequence[UplinkConfig] = (),
) -> Network:
    """Return a network as configured, with the rules for its devices."""
    ours = [one for one in gateways if one.network == config.name]
    return Network(
        NetworkOptions(
            random_bytes=os.urandom,
            secret=secret,
            name=config.name,
            mode=config.mode,
            mtu=config.mtu,
            subnets=config.subnets,
            prefixes=tuple(
                address.network
                for one in ours
                if one.ra or one.dhcp
                for address in announced(one.addresses)
            ),
            guard=config.guard,
            mac_scheme=config.mac_scheme,
            policies=decided(config.name, gateways, uplinks),
            rules=rules(config.name, policies),
            router=router or RouterOptions(config.router_addresses),
            limits=Limits(
                pool_frames=config.pool_frames,
                pool_bytes=config.pool_bytes,
                tx_slots=config.tx_slots,
                rx_slots=config.rx_slots,
                rx_bytes=config.rx_bytes,
                hold_timeout_s=config.hold_timeout_s,
            ),
        )
    )


def router_options(
    network: NetworkConfig, config: ServerConfig, tables: dict[str, RouteTable]
) -> RouterOptions:
    """Return what a network's router is made from; joined ones share one of ``tables``.

    A network's gateway is its way out by default: where no route to everywhere is configured.
    """
    joined = {network.name}
    if network.router:
        joined |= {each.name for each in config.networks if each.router == network.router}
    everywhere = {each.to for each in config.routes if each.network in joined}
    routes = [(each.to, each.via) for each in config.routes if each.network == network.name]
    for gateway in config.gateways:
        if gateway.network == network.name:
            for address in gateway.addresses:
                to = ip_network("0.0.0.0/0" if address.version == 4 else "::/0")
                if to not in everywhere:
                    everywhere.add(to)
                    routes.append((to, address.ip))
    return RouterOptions(
        network.router_addresses,
        {each.interface: each.addresses for each in config.uplinks if each.network == network.name},
        tuple(routes),
        tables.setdefault(network.router, RouteTable()) if network.router else None,
    )


def rules(network: str, policies: Sequence[PolicyConfig]) -> tuple[Rule, ...]:
    """Return the rules of a network as the core takes them."""
    return tuple(_rule(one) for one in policies if one.network in ("", network))


def _rule(policy: PolicyConfig) -> Rule:
    settings = dict(policy.settings)
    if "addresses" in settings:
        settings["addresses"] = tuple(str(address) for address in settings["addresses"])
    return Rule(
        where=policy.where,
        settings=settings,
        owner=policy.owner,
        device=policy.device,
        node=policy.node,
        network=bool(policy.network),
    )


def decided(
    network: str, gateways: Sequence[GatewayConfig], uplinks: Sequence[UplinkConfig] = ()
) -> tuple[DevicePolicy, ...]:
    """Return what is allowed to the server's own devices in a network, whatever the rules say."""
    own = [gateway_policy(one) for one in gateways if one.network == network]
    own += [uplink_policy(one) for one in uplinks if one.network == network]
    return tuple(own)


def uplink_policy(uplink: UplinkConfig) -> DevicePolicy:
    """Return the policy of an uplink: which VLANs it carries, and what is learned behind it."""
    return DevicePolicy(
        owner=UPLINK_OWNER,
        name=uplink.interface,
        vlan=uplink.vlan,
        vlans=uplink.vlans,
        learn_limit=uplink.learn_limit,
        sticky=uplink.sticky,
        static_macs=uplink.static_macs,
    )


def gateway_policy(gateway: GatewayConfig) -> DevicePolicy:
    """Return the policy of a gateway's device: its addresses are nobody's to claim, up or down."""
    return DevicePolicy(
        owner=GATEWAY_OWNER,
        name=GATEWAY_DEVICE,
        addresses=tuple(str(address.ip) for address in gateway.addresses),
        trusted=True,
        router=True,
        dhcp_server=True,
    )
