"""DHCP between devices of a network without I/O: messages made by scapy, not by our own code."""

from __future__ import annotations

from typing import Any

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import (
    DUID_LL,
    DHCP6_Decline,
    DHCP6_Rebind,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptIA_NA,
    DHCP6OptIAAddress,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from hypervisor.mach.policy import DevicePolicy
from tests.helpers.core import Port, World

SERVER, SERVER6 = "10.0.0.254", "fd00::fe"
#: The policy of a device that serves; the owner is "uid:9".
SERVES = DevicePolicy("uid:9", "gw", addresses=(SERVER, SERVER6), dhcp_server=True)

_MESSAGES6: dict[str, Any] = {
    "solicit": DHCP6_Solicit,
    "request": DHCP6_Request,
    "renew": DHCP6_Renew,
    "rebind": DHCP6_Rebind,
    "release": DHCP6_Release,
    "decline": DHCP6_Decline,
}


def link_local(mac: bytes) -> str:
    """Return the link-local address of a MAC, in the kernel's words."""
    tail = bytes((mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:])).hex()
    return "fe80::" + ":".join(tail[at : at + 4] for at in range(0, 16, 4))


def ask4(
    client: Port, kind: str = "request", xid: int = 1, wanted: str | None = None, **fields: Any
) -> bytes:
    """Return a client's message; ``wanted`` is option 50, ``own`` is ciaddr and source."""
    own = fields.pop("own", "0.0.0.0")
    to = fields.pop("to", "255.255.255.255")
    options: list[Any] = [("message-type", kind)]
    if wanted is not None:
        options.append(("requested_addr", wanted))
    layer = Ether(src=client.mac.hex(":"), dst="ff:ff:ff:ff:ff:ff")
    layer /= IP(src=own, dst=to) / UDP(sport=68, dport=67)
    layer /= BOOTP(op=1, xid=xid, ciaddr=own, chaddr=client.mac, **fields)
    return bytes(layer / DHCP(options=[*options, "end"]))


def answer4(
    server: Port,
    client: bytes,
    address: str = "0.0.0.0",
    kind: str = "ack",
    xid: int = 1,
    seconds: int | None = 600,
    **fields: Any,
) -> bytes:
    """Return what a server says to the client of a MAC. ``to`` is the Ethernet destination."""
    to = fields.pop("to", client)
    options: list[Any] = [("message-type", kind), ("server_id", SERVER)]
    if seconds is not None:
        options.append(("lease_time", seconds))
    options += fields.pop("options", [])
    layer = Ether(src=server.mac.hex(":"), dst=to.hex(":"))
    layer /= IP(src=SERVER, dst=fields.pop("ip", address)) / UDP(sport=67, dport=68)
    layer /= BOOTP(op=2, xid=xid, yiaddr=address, chaddr=client, **fields)
    return bytes(layer / DHCP(options=[*options, "end"]))


def ask6(
    client: Port, kind: str = "request", xid: int = 1, *addresses: str, duid: bytes | None = None
) -> bytes:
    """Return a client's message of DHCPv6, about ``addresses``."""
    layer = Ether(src=client.mac.hex(":"), dst="33:33:00:01:00:02")
    layer /= IPv6(src=link_local(client.mac), dst="ff02::1:2") / UDP(sport=546, dport=547)
    layer /= _MESSAGES6[kind](trid=xid) / _identifier(duid or client.mac)
    return bytes(layer / _association([(each, 0) for each in addresses]))


def answer6(
    server: Port, client: bytes, *given: tuple[str, int], xid: int = 1, duid: bytes | None = None
) -> bytes:
    """Return a server's reply to the client of a MAC: addresses, each with its valid lifetime."""
    layer = Ether(src=server.mac.hex(":"), dst=client.hex(":"))
    layer /= IPv6(src=link_local(server.mac), dst=link_local(client)) / UDP(sport=547, dport=546)
    layer /= DHCP6_Reply(trid=xid) / _identifier(duid or client)
    return bytes(layer / _association(list(given)) if given else layer)


def _identifier(mac: bytes) -> Any:
    return DHCP6OptClientId(duid=DUID_LL(lladdr=mac.hex(":")))


def _association(given: list[tuple[str, int]]) -> Any:
    inside = [DHCP6OptIAAddress(addr=each, preflft=valid, validlft=valid) for each, valid in given]
    return DHCP6OptIA_NA(iaid=1, T1=0, T2=0, ianaopts=inside)


def lease(client: Port, server: Port, address: str, seconds: int = 600, xid: int = 1) -> None:
    """Let a client get an address the usual way, and see that it did."""
    world = client.world
    if ":" in address:
        request = ask6(client, "request", xid, address)
        answer = answer6(server, client.mac, (address, seconds), xid=xid)
    else:
        request = ask4(client, "request", xid, address)
        answer = answer4(server, client.mac, address, xid=xid, seconds=seconds)
    assert world.written(client.write(request)).drops == {}
    assert world.written(server.write(answer)).drops == {}
    assert address in world.network.addresses.of_device(client.handle.nic.device)


def addresses(port: Port) -> tuple[str, ...]:
    """Return what a device has now."""
    return port.world.network.addresses.of_device(port.handle.nic.device)


def guarded(*policies: DevicePolicy, **options: Any) -> World:
    """Return a network with the full guard and a server's policy."""
    return World(options={"guard": "full", "policies": (SERVES, *policies), **options})
