"""What a server says when it is up: where it is, what it holds, how to plug in."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from hypervisor import __version__
from hypervisor.config.model import (
    Interface,
    NetworkConfig,
    ServerConfig,
    Subnet,
    TranslatorConfig,
    UplinkConfig,
)
from hypervisor.service.guests import RECONNECT_HINT, Invitation

#: An address to show when a network takes any.
_ANY_SUBNET_EXAMPLE = "10.0.0.1/24"


def announcement(
    config: ServerConfig,
    data_path: str,
    tcp: str = "",
    invitations: Sequence[Invitation] = (),
    uplinks: Mapping[UplinkConfig, str] | None = None,
) -> str:
    """Return the lines for people, without a newline at the end.

    ``data_path`` is the runtime's, and shown if it is not "compiled"; ``tcp`` the bound endpoint;
    ``uplinks`` says of each how it is.
    """
    lines = _lines(config, data_path, tcp, uplinks or {})
    return "\n".join((*lines, *_guest_lines(invitations)))


def _guest_lines(invitations: Sequence[Invitation]) -> Iterator[str]:
    for one in invitations:
        yield f"plug a guest of uid {one.owner} in, as {one.device} on {one.network}, by QEMU with:"
        yield f"  {one.qemu_arguments()}"
    if any(one.kind == "stream" for one in invitations):
        yield RECONNECT_HINT


def _lines(
    config: ServerConfig, data_path: str, tcp: str, uplinks: Mapping[UplinkConfig, str]
) -> Iterator[str]:
    yield f"hypervisor {__version__} is up; ^C stops it"
    if data_path != "compiled":
        yield f"  data path: {data_path}"
    for network in config.networks:
        subnets = ", ".join(str(subnet) for subnet in network.subnets) or "any address"
        yield (
            f"  network {network.name}: {network.mode}, mtu {network.mtu}, "
            f"guard {network.guard}, {subnets}"
        )
        for gateway in config.gateways:
            if gateway.network == network.name:
                addresses = ", ".join(str(address) for address in gateway.addresses)
                yield f"    gateway {addresses}"
        for translator in config.translators:
            if translator.network == network.name:
                yield f"    node {translator.path}"
        for uplink in config.uplinks:
            if uplink.network == network.name:
                yield f"    uplink nic:{uplink.interface}, {uplinks.get(uplink, 'up')}"
        for vde in config.vdes:
            if vde.network == network.name:
                yield f"    {vde.path}, a folder for VDE clients of uid {vde.owner}"
        if config.listen is not None and config.listen.network == network.name:
            whom = "whoever has a certificate" if config.tls else "every user of this machine"
            yield f"    TCP {tcp}, open to {whom}"
    if config.translators:
        yield "plug a network stack in with:"
        yield f"  {example_command(config)}"


def example_command(config: ServerConfig) -> str:
    """Return the command that plugs a shell into the first node's network."""
    translator: TranslatorConfig = config.translators[0]
    network = next(one for one in config.networks if one.name == translator.network)
    words = ["pfinet-client", "run", "--device", str(translator.path)]
    gateway = next((one for one in config.gateways if one.network == network.name), None)
    if network.router_addresses:
        own = network.router_addresses[0]
        words += ["--address", beside(own), "--gateway", str(own.ip)]
    elif gateway is None:
        words += ["--address", _example_address(network)]
    else:
        own = gateway.addresses[0]
        words += ["--address", beside(own), "--gateway", str(own.ip)]
    return shlex.join([*words, "--", "bash"])


def endpoint(host: str, port: int) -> str:
    """Write an address and port as gRPC and people do."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def beside(gateway: Interface) -> str:
    """Return an address that a client of a gateway, or a router, may have."""
    network = gateway.network
    first = network.network_address + 1
    return f"{first if first != gateway.ip else first + 1}/{network.prefixlen}"


def _example_address(network: NetworkConfig) -> str:
    if not network.subnets:
        return _ANY_SUBNET_EXAMPLE
    subnet: Subnet = network.subnets[0]
    first = subnet.network_address + (1 if subnet.num_addresses > 2 else 0)
    return f"{first}/{subnet.prefixlen}"
