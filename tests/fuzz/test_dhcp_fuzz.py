"""Mutated DHCP between a client and a server: no exception, and nothing bound that was not asked.

Seeded: each run sees the same messages.
"""

from __future__ import annotations

import ipaddress
import random

import pytest

from tests.helpers.dhcp_talk import addresses, answer4, answer6, ask4, ask6, guarded

ROUNDS = 400
GIVEN = ipaddress.ip_network("10.0.0.0/24"), ipaddress.ip_network("fd00::/64")


@pytest.mark.parametrize("version", [4, 6])
def test_whatever_is_said_binds_at_most_an_address_of_the_network(version: int) -> None:
    chance = random.Random(version)
    a = guarded(subnets=GIVEN)
    server, one, two = a.open("gw", "uid:9"), a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    bound = 0
    for number in range(ROUNDS):
        xid = number % 200 + 1
        if version == 4:
            ask, answer = ask4(one, xid=xid), answer4(server, one.mac, "10.0.0.5", xid=xid)
            at = 42
        else:
            ask = ask6(one, "request", xid, "fd00::5")
            answer = answer6(server, one.mac, ("fd00::5", 600), xid=xid)
            at = 62
        if chance.random() < 0.5:
            ask = mutated(chance, ask, at)
        one.write(ask)
        server.write(mutated(chance, answer, at))
        for address in addresses(one):
            assert any(ipaddress.ip_address(address) in net for net in GIVEN)
            bound += 1
            a.network.addresses.unclaim("uid:1", address)
        assert addresses(two) == ()
        one.take()
        two.take()
        server.take()
        a.now += 0.01
    a.network.take_events()
    a.audit()
    assert bound > ROUNDS // 20, "some survive"


def mutated(chance: random.Random, frame: bytes, at: int) -> bytes:
    """Change up to three bytes behind the UDP header; lengths stay."""
    changed = bytearray(frame)
    for _ in range(chance.randrange(4)):
        place = chance.randrange(at, len(changed))
        changed[place] = chance.choice((0, 1, 5, 255, chance.randrange(256)))
    return bytes(changed)
