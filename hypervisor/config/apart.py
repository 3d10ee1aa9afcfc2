"""A gateway that is no part of a server's configuration: a command line of its own.

It says what ``serve --gateway`` says, in the same words, and is judged by the same checks. On which
network it is the node decides, so it names none.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypervisor.config import tables
from hypervisor.config.checks import check_gateways
from hypervisor.config.gateways import check_services, publish
from hypervisor.config.kinds import BadValue
from hypervisor.config.model import DEFAULT_NETWORK, GatewayConfig
from hypervisor.config.problems import Origin, Problems
from hypervisor.config.tables import Setting, read_words

_GATEWAY_KEYS = {key: kind for key, kind in tables.GATEWAY_KEYS.items() if key != "network"}
_PUBLISH_KEYS = {key: kind for key, kind in tables.PUBLISH_KEYS.items() if key != "network"}


def read_gateway(text: str, published: Sequence[str] = ()) -> GatewayConfig:
    """Read a gateway, and the ports that lead in through it. Raises ConfigError."""
    problems = Problems()
    _refuse_network(text, problems)
    gateway = read_words(text, "addresses", _GATEWAY_KEYS, Origin(text), problems)
    ports = [
        table
        for each in published
        if (table := read_words(each, "forward", _PUBLISH_KEYS, Origin(f"-p {each}"), problems))
    ]
    problems.raise_if_any()
    assert gateway is not None
    for table in (gateway, *ports):
        # Some name, the same for all: the node's own is known once somebody answers there.
        table.settings["network"] = Setting(DEFAULT_NETWORK, table.origin)
    gateways = [gateway]
    check_gateways(gateways, (), (), problems)
    publish(ports, gateways, (DEFAULT_NETWORK,), problems)
    check_services(gateways, (), problems)
    problems.raise_if_any()
    return GatewayConfig(**gateway.values())


def read_device_name(text: str) -> str:
    """Read the name of the gateway's device. Raises ConfigError."""
    problems = Problems()
    try:
        return str(tables.DEVICE_KEYS["name"].read(text))
    except BadValue as bad:
        problems.add(Origin("--device-name"), bad.message, bad.hint)
        problems.raise_if_any()
        raise


def _refuse_network(text: str, problems: Problems) -> None:
    if any(part.startswith("network=") for part in text.split(",")):
        hint = "leave it out, and name another node with --device for another network"
        problems.add(Origin(text), "the node says which network it is", hint)
        problems.raise_if_any()
