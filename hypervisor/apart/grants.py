"""What the server's policy lets a gateway's device do, and what its operator has to write.

Nothing is enforced here, the server's guard does that. But a gateway whose every frame is discarded
should say why, and to whom to go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv6Network, ip_network

from hypervisor.config.gateways import announced
from hypervisor.config.model import GatewayConfig
from pfinet_client.members import Picture


def refusal(gateway: GatewayConfig, picture: Picture, owner: str, device: str) -> str:
    """Return what policy does not let the gateway do that it is asked to do, "" if nothing."""
    lacking = []
    if not picture.routes and (gateway.nat or gateway.ra):
        lacking.append(("router", "forward packets" if gateway.nat else "announce prefixes"))
    if not picture.serves and gateway.dhcp:
        lacking.append(("dhcp_server", "answer DHCP"))
    if not lacking:
        return ""
    what = " or ".join(text for _, text in lacking)
    return f"the server's policy does not let device {device} of {owner} {what}: " + _remedy(
        owner, device, [key for key, _ in lacking]
    )


def blindness(gateway: GatewayConfig, picture: Picture, owner: str, device: str) -> str:
    """Return what the gateway does not see of the network that it would have a use for."""
    if picture.everybody or not (gateway.dhcp or gateway.dns or gateway.forwards):
        return ""
    return (
        f"the server tells device {device} only of {owner}'s own devices, so others get no "
        f"addresses, names and ports: {_remedy(owner, device, ['dhcp_server'])}"
    )


def unusable(gateway: GatewayConfig, guard: str, subnets: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with prefixes that hosts are to make addresses in, and may not use."""
    known = [ip_network(each) for each in subnets]
    for each in announced(gateway.addresses) if gateway.ra and guard == "full" else ():
        prefix = each.network
        assert isinstance(prefix, IPv6Network)
        if prefix not in known:
            yield (
                f"hosts make addresses in {prefix} that the server's guard does not let them use: "
                f"its operator has to add subnet={prefix} to the network (and then the subnets of "
                "all other addresses)"
            )


def _remedy(owner: str, device: str, keys: Sequence[str]) -> str:
    kind, _, number = owner.partition(":")
    shown = number if kind == "uid" else f'"{owner}"'
    settings = ", ".join(f"{key} = true" for key in keys)
    return (
        f'have its operator write [[device]] owner = {shown}, name = "{device}", {settings} (each '
        "in a line) into the file of serve --config, and run `hypervisor policy reload`"
    )
