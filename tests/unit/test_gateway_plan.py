"""What a gateway's plan says to nftables and pasta: rules that load, arguments that shut doors."""

from __future__ import annotations

import itertools
import json
import subprocess
from dataclasses import replace
from ipaddress import ip_address, ip_interface

from hypervisor.gateway.plan import GatewayPlan, host_rules, pasta_arguments, ruleset
from hypervisor.kernel.tools import find_tool
from tests.helpers.kernel_objects import namespace

MAC = bytes.fromhex("525400000001")
HOST = (ip_address("192.0.2.2"), ip_address("127.0.0.1"), ip_address("2001:db8::2"))


def plan(*addresses: str, reach_host: bool = False) -> GatewayPlan:
    interfaces = tuple(ip_interface(text) for text in addresses)
    return GatewayPlan("lan", interfaces, MAC, 1500, reach_host)


BOTH = plan("10.0.0.1/24", "fd00::1/64")


def test_a_plan_survives_the_way_to_another_process() -> None:
    assert GatewayPlan.of_json(json.loads(json.dumps(BOTH.as_json()))) == BOTH
    assert BOTH.versions() == {4, 6}
    assert plan("fd00::1/64").versions() == {6}


def test_as_many_bytes_wait_for_pasta_in_packets_of_any_size_but_never_few_packets() -> None:
    queues = {mtu: replace(BOTH, mtu_bytes=mtu).outside_queue_packets for mtu in (576, 1500, 65520)}
    assert queues == {576: 10_922, 1500: 4_194, 65520: 1_000}


def test_the_rules_load_for_every_kind_of_gateway() -> None:
    nft = find_tool("nft")
    assert nft is not None
    with namespace() as space:
        for each in (BOTH, plan("10.0.0.1/24"), plan("fd00::1/64"), plan("10.0.0.1/32")):
            for hosts in ((), HOST):
                for text in (ruleset(each, hosts), host_rules(each, HOST), host_rules(each, ())):
                    load = ["sh", "-c", f"{nft} -f - <<'END'\n{text}\nEND"]
                    done = space.call(lambda load=load: subprocess.run(load, capture_output=True))  # type: ignore[misc]
                    assert done.returncode == 0, done.stderr
                space.run(nft, "flush", "ruleset")


def test_the_machines_addresses_are_refused_unless_the_operator_says_otherwise() -> None:
    assert "set host4 { type ipv4_addr; elements = { 127.0.0.1, 192.0.2.2 } }" in ruleset(
        BOTH, HOST
    )
    allowed = plan("10.0.0.1/24", "fd00::1/64", reach_host=True)
    assert "192.0.2.2" not in ruleset(allowed, HOST)
    assert "2001:db8::2" not in host_rules(allowed, HOST)
    assert "add element inet gateway host6 { 2001:db8::2 }" in host_rules(BOTH, HOST)


def test_pasta_forwards_no_port_and_maps_no_address_to_loopback() -> None:
    arguments = pasta_arguments("/proc/7/ns/net", {4, 6})
    pairs = list(itertools.pairwise(arguments))
    assert {(flag, "none") for flag in ("-t", "-u", "-T", "-U")} <= set(pairs)
    assert ("--netns", "/proc/7/ns/net") in pairs
    assert ("--address", "192.0.0.2") in pairs
    assert ("--gateway", "fdca:5ade:6a7e::1") in pairs
    assert "--no-map-gw" in arguments
    only = pasta_arguments("/proc/7/ns/net", {6})
    assert "--ipv6-only" in only
    assert "192.0.0.2" not in only
