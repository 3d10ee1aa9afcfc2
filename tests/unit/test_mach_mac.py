"""Addresses of virtual NICs: stable, secret, unique; and the Hurd's own."""

from __future__ import annotations

from itertools import islice

import pytest

from hypervisor.mach.mac import hurd_candidates, keyed_candidates, murmur3_32
from tests.helpers.core import World

SECRET = bytes(range(32))


@pytest.mark.parametrize(
    ("uplink", "name", "mac"),
    [
        ("000000000000", "0", "52:54:26:8b:02:c8"),
        ("000000000000", "1", "52:54:16:55:c9:9c"),
        ("000000000000", "veth0", "52:54:4c:33:fb:34"),
        ("000000000000", "veth1", "52:54:55:f4:6a:d3"),
        ("525400123456", "0", "52:54:f3:c4:47:f1"),
        ("525400123456", "1", "52:54:41:2c:c3:8f"),
    ],
)
def test_the_hurds_scheme_gives_eth_multiplexers_addresses(
    uplink: str, name: str, mac: str
) -> None:
    assert next(hurd_candidates(name, bytes.fromhex(uplink))).hex(":") == mac


def test_murmur3_is_the_public_one() -> None:
    # Vectors of MurmurHash3_x86_32 for each length of the tail.
    assert murmur3_32(b"", 0) == 0
    assert murmur3_32(b"", 1) == 0x514E28B7
    assert murmur3_32(b"hello", 0) == 0x248BFA47
    assert murmur3_32(b"hello, world", 0) == 0x149BBB7F
    assert murmur3_32(b"The quick brown fox jumps over the lazy dog", 0) == 0x2E4FF723


def test_keyed_addresses_depend_on_secret_owner_and_name() -> None:
    first = next(keyed_candidates(SECRET, "uid:1", "eth0"))
    assert first[:2] == b"\x52\x54"
    assert first == next(keyed_candidates(SECRET, "uid:1", "eth0"))
    others = {
        next(keyed_candidates(bytes(32), "uid:1", "eth0")),
        next(keyed_candidates(SECRET, "uid:2", "eth0")),
        next(keyed_candidates(SECRET, "uid:1", "eth1")),
        # Owner and name do not run into one another.
        next(keyed_candidates(SECRET, "uid:1e", "th0")),
    }
    assert len(others | {first}) == 5


@pytest.mark.parametrize("scheme", ["keyed", "hurd"])
def test_a_collision_takes_the_next_candidate(scheme: str) -> None:
    world = World(options={"mac_scheme": scheme})
    if scheme == "hurd":
        candidates = list(islice(hurd_candidates("eth0"), 3))
    else:
        candidates = list(islice(keyed_candidates(b"secret" * 6, "uid:1", "eth0"), 3))
    assert len(set(candidates)) == 3
    table = world.network.devices
    table._reserved = frozenset(candidates[:2])
    assert world.open("eth0", "uid:1").mac == candidates[2]


def test_under_the_hurds_scheme_a_name_taken_twice_gets_two_addresses() -> None:
    world = World(options={"mac_scheme": "hurd"})
    first, second = world.open("veth0", "uid:1"), world.open("veth0", "uid:2")
    assert first.mac.hex(":") == "52:54:4c:33:fb:34"
    assert second.mac != first.mac
    mine = first.mac
    first.close()
    assert world.open("veth0", "uid:1").mac == mine


def test_an_address_is_the_same_after_closing_and_in_another_run() -> None:
    world = World()
    port = world.open("eth0", "uid:1")
    mac = port.mac
    port.close()
    assert world.open("eth0", "uid:1").mac == mac
    assert World().open("eth0", "uid:1").mac == mac
