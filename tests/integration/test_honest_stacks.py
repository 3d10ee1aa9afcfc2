"""Honest traffic of real stacks passes the full guard, and none of it is discarded for any reason.

Linux stacks, and Debian's own tools: what they say by themselves when they come up, and what they
are asked to say here. Nobody is given a rule, but the one who is a router and a DHCP server.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import ICMPv6MLReport2, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether

from hypervisor.service.inspect import Inspector
from tests.helpers.kernel_objects import a_fresh_uid, in_child
from tests.helpers.processes import server
from tests.helpers.stack_agent import Stack, stack

pytestmark = pytest.mark.slow

MTU = 9000
SLAAC = "2001:db8:5::"
ROUTER_UID = a_fresh_uid()
CONFIG = f"""
guard = "full"

[[network]]
name = "lan"
mtu = {MTU}
subnets = ["10.6.0.0/24", "fd06::/64", "{SLAAC}/64"]

[[device]]
owner = "{ROUTER_UID}"
name = "eth0"
router = true
dhcp_server = true
"""


@dataclass(frozen=True, slots=True)
class Lan:
    """A guarded network with a router on it."""

    node: Path
    left: Stack
    right: Stack
    router: Stack

    def discards(self) -> dict[str, dict[str, int]]:
        """Return what was discarded of each device, by reason."""

        def look() -> list[dict[str, Any]]:
            with Inspector(self.node) as inspector:
                found: list[dict[str, Any]] = inspector.devices()["devices"]
                return found

        return {f"{row['owner']}/{row['name']}": row["tx_drops"] for row in in_child(look)}


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    folder = Path(tempfile.mkdtemp(prefix="machdev-honest-"))
    folder.chmod(0o755)
    (folder / "config.toml").write_text(CONFIG)
    try:
        with ExitStack() as there:
            flags = ("--translator", f"{folder / 'veth0'},mode=0666")
            config = ("--config", str(folder / "config.toml"))
            node = there.enter_context(server(folder, *flags, *config)).node
            router = there.enter_context(
                stack(node, ["10.6.0.254/24", "fd06::fe/64"], uid=ROUTER_UID)
            )
            router.ask("capture", "eth0")
            left, right = (
                there.enter_context(stack(node, [f"10.6.0.{n}/24", f"fd06::{n}/64"]))
                for n in (1, 2)
            )
            yield Lan(node, left, right, router)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_is_discarded(lan: Lan) -> Iterator[None]:
    before = lan.discards()
    yield
    assert lan.discards() == before


def seen(lan: Lan) -> list[Any]:
    """Return what the router's kernel has seen since the last time, as scapy reads it."""
    return [Ether(bytes.fromhex(each)) for each in lan.router.ask("captured")["frames"]]


def sees(lan: Lan, one: Stack, *conditions: Callable[[Any], bool]) -> bool:
    """Tell whether the router's kernel sees a packet of a stack for each condition, in a while."""
    address, missing = mac(one), list(conditions)
    for _ in range(30):
        packets = [each for each in seen(lan) if each.src == address]
        missing = [each for each in missing if not any(map(each, packets))]
        if not missing:
            return True
        one.run("ping", "-q", "-c2", "-i0.2", "10.6.0.254")
    return False


def mac(one: Stack) -> str:
    return str(one.table("link", "show", "eth0")[0]["address"])


def await_address(one: Stack, prefix: str) -> str:
    """Wait until a stack has an address that begins so, and has found it to be nobody else's."""
    command = f"until ip -6 address show dev eth0 -tentative | grep {prefix}; do sleep 0.05; done"
    one.run("timeout", "20", "sh", "-c", command)
    for row in one.table("-6", "address", "show", "dev", "eth0"):
        for each in row["addr_info"]:
            if each["local"].startswith(prefix):
                assert not each.get("tentative"), each
                assert not each.get("dadfailed"), each
                return str(each["local"])
    pytest.fail(f"no address {prefix}")


def is_dad(packet: Any) -> bool:
    """Tell whether a packet looks whether a link-local address is taken."""
    return bool(
        ICMPv6ND_NS in packet
        and packet[IPv6].src == "::"
        and packet[ICMPv6ND_NS].tgt.startswith("fe80::")
    )


def test_stacks_come_up_with_dad_and_reports_of_their_groups(lan: Lan) -> None:
    await_address(lan.left, "fe80::")
    assert sees(lan, lan.left, is_dad, lambda packet: ICMPv6MLReport2 in packet)


def test_neighbours_find_each_other_by_arp_and_discovery(lan: Lan) -> None:
    for one, other in ((lan.left, "2"), (lan.right, "1")):
        one.run("ip", "neigh", "flush", "all")
        assert one.succeeds("ping", "-c2", "-i0.2", "-w9", f"10.6.0.{other}")
        assert one.succeeds("ping", "-c2", "-i0.2", "-w9", f"fd06::{other}")


def test_an_address_is_probed_and_announced(lan: Lan) -> None:
    seen(lan)
    mine = lan.left
    assert mine.succeeds("busybox", "arping", "-D", "-q", "-c1", "-w1", "-I", "eth0", "10.6.0.77")
    taken = ("busybox", "arping", "-D", "-q", "-c2", "-w2", "-I", "eth0", "10.6.0.2")
    assert not mine.succeeds(*taken), "whoever probes for a taken address must hear of it"
    mine.run(
        "busybox", "arping", "-U", "-q", "-c1", "-w1", "-I", "eth0", "-s", "10.6.0.1", "10.6.0.1"
    )
    assert sees(
        lan,
        mine,
        lambda packet: (
            ARP in packet and packet[ARP].psrc == "0.0.0.0" and packet[ARP].pdst == "10.6.0.77"
        ),
        lambda packet: ARP in packet and packet[ARP].psrc == packet[ARP].pdst == "10.6.0.1",
    )


def test_stateless_addresses_of_a_router_are_used(lan: Lan) -> None:
    command = ("atk6-fake_router26", "-A", f"{SLAAC}/64", "-i", "0", "-n", "1", "eth0")
    lan.router.run(*command)
    addresses = [await_address(one, SLAAC.rstrip(":")) for one in (lan.left, lan.right)]
    assert lan.left.succeeds("ping", "-c1", "-w9", "-i0.2", "-I", addresses[0], addresses[1])


MULTICAST = """
import json, socket, struct, sys
group, interface = sys.argv[1], socket.if_nametoindex("eth0")
family = socket.AF_INET6 if ":" in group else socket.AF_INET
packed = socket.inet_pton(family, group)
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", 5353))
    if family == socket.AF_INET:
        member = packed + struct.pack("@II", 0, interface)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + member[8:])
        to = (group, 5353)
    else:
        member = packed + struct.pack("@I", interface)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface)
        to = (group, 5353, 0, interface)
    sock.settimeout(0.2)
    for _ in range(100):
        sock.sendto(sys.argv[2].encode(), to)
        try:
            while True:
                said = sock.recv(100).decode()
                if said == sys.argv[3]:
                    sock.sendto(sys.argv[2].encode(), to)
                    sys.exit(0)
        except TimeoutError:
            pass
sys.exit(1)
"""


@pytest.mark.parametrize("group", ["224.0.0.251", "ff02::fb"])
def test_mdns_crosses_and_its_groups_are_reported(lan: Lan, group: str) -> None:
    seen(lan)
    python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else "python3"
    script = (python, "-c", MULTICAST, group)
    lan.right.ask("start", "mdns", [*script, "right", "left"])
    assert lan.left.succeeds(*script, "left", "right")
    lan.right.ask("stop", "mdns")
    if ":" in group:
        assert sees(lan, lan.left, lambda packet: ICMPv6MLReport2 in packet)
    else:
        assert sees(lan, lan.left, lambda packet: IP in packet and packet[IP].proto == 2)


@pytest.mark.parametrize("address", ["10.6.0.2", "fd06::2"])
def test_jumbo_frames_and_fragments_pass(lan: Lan, address: str) -> None:
    header = 28 if "." in address else 48
    jumbo = ("ping", "-c1", "-w9", "-i0.2", "-M", "do", "-s", str(MTU - header), address)
    assert lan.left.succeeds(*jumbo)
    assert lan.left.succeeds("ping", "-c1", "-w9", "-i0.2", "-s", "30000", address)


def test_the_path_mtu_is_found(lan: Lan) -> None:
    """Behind the router is a narrower link, of which it tells whoever sends too much."""
    router = lan.router
    for words in (
        ("link", "add", "narrow", "mtu", "1400", "type", "veth", "peer", "name", "far"),
        ("address", "add", "10.66.0.1/24", "dev", "narrow"),
        ("link", "set", "narrow", "up"),
        ("link", "set", "far", "up"),
        ("neigh", "add", "10.66.0.2", "lladdr", "02:00:00:00:00:02", "dev", "narrow"),
    ):
        assert router.succeeds("ip", *words)
    assert router.succeeds("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    assert lan.left.succeeds("ip", "route", "add", "10.66.0.0/24", "via", "10.6.0.254")
    lan.left.run("ping", "-c2", "-i0.2", "-w1", "-M", "do", "-s", "3000", "10.66.0.2")
    (route,) = json.loads(lan.left.run("ip", "-json", "route", "get", "10.66.0.2"))
    assert route["metrics"][0]["mtu"] == 1400
