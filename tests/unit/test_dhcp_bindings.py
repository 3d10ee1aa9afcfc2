"""Leases from DHCP: what a server of the network answers to a device is the device's, at once."""

from __future__ import annotations

import ipaddress

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from hypervisor.engine.drops import DHCP_BINDING
from hypervisor.errors import AlreadyOpen
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.policy import DevicePolicy
from hypervisor.requests import Event, EventKind, Unclaim
from tests.helpers.core import BROADCAST, Port, World
from tests.helpers.dhcp_talk import (
    SERVER,
    SERVER6,
    SERVES,
    addresses,
    answer4,
    answer6,
    ask4,
    ask6,
    guarded,
    lease,
)

SUBNETS = (ipaddress.ip_network("10.0.0.0/24"), ipaddress.ip_network("fd00::/64"))
#: An address of each family, and another one.
FAMILIES = [("10.0.0.5", "10.0.0.6"), ("fd00::5", "fd00::6")]


def people(*policies: DevicePolicy, **others: object) -> tuple[World, Port, Port, Port]:
    a = guarded(*policies, **others)
    server = a.open("gw", "uid:9")
    return a, server, a.open("eth0", "uid:1"), a.open("eth0", "uid:2")


def datagram(sender: Port, source: str) -> bytes:
    """Return a frame from an address to the server."""
    ip = IPv6(src=source, dst=SERVER6) if ":" in source else IP(src=source, dst=SERVER)
    to = next(
        nic.device.mac for nic in sender.world.network.nics.values() if nic.device.name == "gw"
    )
    return bytes(Ether(src=sender.mac.hex(":"), dst=to.hex(":")) / ip / UDP(sport=999) / b"x")


def drops(port: Port, *frames: bytes) -> dict[str, int]:
    return dict(port.world.written(port.write(list(frames))).drops)


def events(a: World, *kinds: str) -> list[Event]:
    return [each for each in a.network.take_events() if each.kind in kinds]


def claim(port: Port, address: str) -> None:
    port.world.claim(port, address)


def ask(client: Port, xid: int = 1, address: str = "10.0.0.5") -> bytes:
    return ask6(client, "request", xid, address) if ":" in address else ask4(client, xid=xid)


def answer(server: Port, client: Port, address: str, xid: int = 1, seconds: int = 600) -> bytes:
    if ":" in address:
        return answer6(server, client.mac, (address, seconds), xid=xid)
    return answer4(server, client.mac, address, xid=xid, seconds=seconds)


@pytest.mark.parametrize(("address", "other"), FAMILIES)
def test_the_very_next_frame_from_a_leased_address_passes(address: str, other: str) -> None:
    a, server, one, two = people(subnets=SUBNETS)
    frame = datagram(one, address)
    assert set(drops(one, frame)) <= {"source_ipv4", "source_ipv6"}
    assert drops(one, ask(one, address=address)) == {}
    assert addresses(one) == (), "asking gives nothing"
    reply = answer(server, one, address)
    assert drops(server, reply) == {}
    assert addresses(one) == (address,)
    assert one.take()[-1] == reply
    assert drops(one, frame, datagram(one, address)) == {}
    assert list(drops(one, datagram(one, other)).values()) == [1]
    assert list(drops(two, datagram(two, address)).values()) == [1], "it is not everybody's"
    (event,) = events(a, EventKind.LEASED)
    assert (event.owner, event.device) == ("uid:1", "eth0")
    assert event.detail == f"{address} by DHCP, for 600 s"
    a.audit()


def test_an_answer_to_everybody_binds_whom_it_names() -> None:
    _, server, one, two = people()
    drops(one, ask4(one, flags="B"))
    reply = answer4(server, one.mac, "10.0.0.5", to=BROADCAST, ip="255.255.255.255")
    assert drops(server, reply) == {}
    assert (addresses(one), addresses(two)) == (("10.0.0.5",), ())
    assert two.take()[-1] == reply


def test_a_device_that_got_an_address_is_sent_only_what_is_for_it() -> None:
    _, server, one, _ = people()
    lease(one, server, "10.0.0.5")
    astray = Ether(src=server.mac.hex(":"), dst=one.mac.hex(":")) / IP(src=SERVER, dst="10.0.0.6")
    assert drops(server, bytes(astray / UDP(sport=999))) == {"not_addressed": 1}


# --- who is believed ---------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "other"), FAMILIES)
def test_an_answer_that_nobody_asked_for_binds_nothing(address: str, other: str) -> None:
    a, server, one, two = people()
    drops(one, ask(one, 7, address))
    drops(two, ask(two, 8, address))
    one.take()
    two.take()
    for client, xid in ((one, 8), (two, 7), (one, 9)):
        assert drops(server, answer(server, client, address, xid)) == {DHCP_BINDING: 1}
    assert (one.take(), two.take()) == ([], [])
    assert (addresses(one), addresses(two)) == ((), ())
    (event,) = events(a, EventKind.DISCARD)
    assert event.data["reason"] == DHCP_BINDING
    assert "transaction" in str(event.data["field"])
    a.audit()


def test_an_answer_for_one_does_not_go_to_another() -> None:
    _, server, one, two = people()
    drops(one, ask4(one))
    astray = answer4(server, one.mac, "10.0.0.5", to=two.mac)
    assert drops(server, astray) == {DHCP_BINDING: 1}
    assert addresses(one) == ()


def test_an_answer_for_another_client_behind_the_same_mac_binds_nothing() -> None:
    _, server, one, _ = people()
    drops(one, ask6(one, "request", 1, "fd00::5"))
    stranger = answer6(server, one.mac, ("fd00::5", 600), duid=b"\x02" * 6)
    assert drops(server, stranger) == {DHCP_BINDING: 1}
    assert addresses(one) == ()


def test_an_answer_comes_in_time_or_not_at_all() -> None:
    a, server, one, _ = people()
    drops(one, ask4(one))
    a.advance(63.0)
    drops(one, ask4(one))  # it repeats itself
    a.advance(63.0)
    assert drops(server, answer4(server, one.mac, "10.0.0.5")) == {}
    drops(one, ask4(one, xid=2))
    a.advance(64.0)
    assert drops(server, answer4(server, one.mac, "10.0.0.5", xid=2)) == {DHCP_BINDING: 1}


def test_only_the_last_requests_of_a_device_are_remembered() -> None:
    _, server, one, two = people()
    drops(two, ask4(two, xid=50))
    drops(one, *(ask4(one, xid=number) for number in range(1, 10)))
    assert drops(server, answer4(server, one.mac, "10.0.0.5", xid=1)) == {DHCP_BINDING: 1}
    assert drops(server, answer4(server, one.mac, "10.0.0.5", xid=2)) == {}
    assert drops(server, answer4(server, two.mac, "10.0.0.6", xid=50)) == {}


def test_a_device_that_may_not_serve_binds_nothing() -> None:
    a, _, one, two = people(DevicePolicy("uid:2", "eth0", guard="mac"))
    drops(one, ask4(one), ask6(one, "request", 1, "fd00::5"))
    for port in (two, a.open("eth1", "uid:2")):
        drops(port, answer4(port, one.mac, "10.0.0.5"), answer6(port, one.mac, ("fd00::5", 9)))
        assert addresses(one) == ()


def test_an_uplink_binds_nothing() -> None:
    a, server, one, _ = people()
    drops(one, ask4(one))
    uplink = a.network.open_outlet(UPLINK_OWNER, "lan", "nic", "eno1")
    a.network.attach(uplink, "nic", a.now, vnet_header=False, accepts=0)
    a.network.ingress(uplink, [answer4(server, one.mac, "10.0.0.5")], a.now)
    forged = answer4(one, one.mac, "10.0.0.5").replace(one.mac, b"\x02\0\0\0\0\x01", 2)
    a.network.ingress(uplink, [forged], a.now)
    assert addresses(one) == ()


def test_what_was_asked_in_one_vlan_is_answered_in_that_one() -> None:
    source = (ipaddress.ip_network(SERVER),)
    tagged = DevicePolicy("uid:8", "gw", dhcp_server=True, vlans=(5, 6), prefixes=source)
    client = DevicePolicy("uid:1", "eth0", vlan=5)
    a, _, one, _ = people(tagged, client)
    server = a.open("gw", "uid:8")
    drops(one, ask4(one))
    reply = answer4(server, one.mac, "10.0.0.5")
    within = {vid: reply[:12] + b"\x81\0\0" + bytes((vid,)) + reply[12:] for vid in (5, 6)}
    assert drops(server, within[6]) == {DHCP_BINDING: 1}
    assert addresses(one) == ()
    assert drops(server, within[5]) == {}
    assert addresses(one) == ("10.0.0.5",)


def test_what_the_guard_does_not_look_into_is_left_alone() -> None:
    loose = DevicePolicy("uid:1", "eth0", guard="mac")
    _, server, one, _ = people(loose)
    drops(one, ask4(one))
    for xid in (1, 2):
        assert drops(server, answer4(server, one.mac, "10.0.0.5", xid=xid)) == {}
    assert drops(server, answer4(server, b"\x02\0\0\0\0\x09", "10.0.0.6", to=BROADCAST)) == {}
    assert addresses(one) == ()


def test_a_server_that_the_guard_does_not_look_into_is_believed_too() -> None:
    policy = DevicePolicy("uid:9", "gw2", guard="mac", dhcp_server=True)
    a, _, one, _ = people(policy)
    server = a.open("gw2", "uid:9")
    lease(one, server, "10.0.0.5")
    lease(one, server, "fd00::5", xid=2)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["10.0.0.2", "fd00::2", SERVER, SERVER6, "10.0.1.5", "fd01::5", "10.0.0.255", "127.0.0.1"],
)
def test_an_address_that_the_client_cannot_have_is_not_handed_out(address: str) -> None:
    a, server, one, two = people(subnets=SUBNETS)
    claim(two, "10.0.0.2")
    claim(two, "fd00::2")
    drops(one, ask(one, address=address))
    one.take()
    assert drops(server, answer(server, one, address)) == {DHCP_BINDING: 1}
    assert one.take() == [], "the client does not configure it"
    assert addresses(one) == ()
    (event,) = events(a, EventKind.DISCARD)
    assert event.data["found"] == address
    a.audit()


def test_an_address_in_use_behind_an_uplink_is_not_handed_out() -> None:
    a, server, one, _ = people()
    uplink = a.network.open_outlet(UPLINK_OWNER, "lan", "nic", "eno1")
    a.network.attach(uplink, "nic", a.now, vnet_header=False, accepts=0)
    host = "02:00:00:00:00:07"
    says = Ether(src=host, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=host, psrc="10.0.0.5", pdst=SERVER)
    a.network.ingress(uplink, [bytes(says)], a.now)
    drops(one, ask4(one))
    assert drops(server, answer4(server, one.mac, "10.0.0.5")) == {DHCP_BINDING: 1}


def test_a_device_gets_at_most_8_addresses() -> None:
    _, server, one, _ = people()
    for last in range(1, 9):
        lease(one, server, f"10.0.0.{last}", xid=last)
    drops(one, ask4(one, xid=9))
    assert drops(server, answer4(server, one.mac, "10.0.0.9", xid=9)) == {DHCP_BINDING: 1}
    drops(one, ask4(one, xid=10))
    assert drops(server, answer4(server, one.mac, "10.0.0.8", xid=10)) == {}, "it has that one"


def test_of_several_addresses_in_one_answer_all_are_bound_or_none() -> None:
    _, server, one, two = people()
    claim(two, "fd00::6")
    drops(one, ask6(one, "request", 1, "fd00::5", "fd00::6"))
    both = answer6(server, one.mac, ("fd00::5", 600), ("fd00::6", 600))
    assert drops(server, both) == {DHCP_BINDING: 1}
    assert addresses(one) == ()
    two.world.call(Unclaim(two.world.number(), two.caller, two.port, "fd00::6"))
    assert drops(server, both) == {}
    assert addresses(one) == ("fd00::5", "fd00::6")


@pytest.mark.parametrize(
    "fields",
    [
        {"seconds": None},
        {"seconds": 0},
        {"options": [("lease_time", 5)]},
        {"options": [("message-type", "ack")]},
        {"hlen": 8},
    ],
)
def test_an_answer_that_can_be_read_in_two_ways_is_discarded(fields: dict[str, object]) -> None:
    _, server, one, _ = people()
    drops(one, ask4(one))
    reply = answer4(server, one.mac, "10.0.0.5", **fields)  # type: ignore[arg-type]
    assert drops(server, reply) == {DHCP_BINDING: 1}
    assert addresses(one) == ()


def test_a_cut_answer_is_discarded_and_so_is_one_in_fragments() -> None:
    _, server, one, _ = people()
    drops(one, ask4(one), ask6(one, "request", 1, "fd00::5"))
    whole = answer4(server, one.mac, "10.0.0.5")
    first = bytearray(whole)
    first[20] |= 0x20
    assert drops(server, bytes(first)) == {DHCP_BINDING: 1}
    assert drops(server, whole[:200]) == {"malformed": 1}
    assert drops(server, answer6(server, one.mac, ("fd00::5", 9))[:-1]) == {"malformed": 1}
    short = bytearray(answer6(server, one.mac, ("fd00::5", 9)))
    short[-25] += 1  # the association's address goes beyond it
    assert drops(server, bytes(short)) == {DHCP_BINDING: 1}
    assert addresses(one) == ()


def test_offers_and_configuration_without_an_address_pass() -> None:
    _, server, one, _ = people()
    offer = answer4(server, one.mac, "10.0.0.5", kind="offer", xid=77)
    informed = answer4(server, one.mac, kind="ack", seconds=None, xid=78, ip="10.0.0.5")
    assert drops(server, offer, informed, answer6(server, one.mac, xid=79)) == {}
    assert len(one.take()) == 3
    assert addresses(one) == ()


# --- how long ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "other"), FAMILIES)
def test_a_lease_ends_with_its_time_unless_it_is_renewed(address: str, other: str) -> None:
    a, server, one, _ = people()
    lease(one, server, address, 100)
    a.advance(60.0)
    lease(one, server, address, 100, xid=2)
    a.network.take_events()
    a.advance(99.9)
    assert drops(one, datagram(one, address)) == {}
    a.advance(0.2)
    assert addresses(one) == ()
    assert list(drops(one, datagram(one, address)).values()) == [1]
    (event,) = events(a, EventKind.LEASE_ENDED)
    assert event.detail == f"{address}: its time is over"
    assert a.network.poll_at() is None
    a.audit()


def test_a_lease_for_ever_does_not_end() -> None:
    a, server, one, _ = people()
    lease(one, server, "10.0.0.5", 0xFFFFFFFF)
    a.advance(10 * 365 * 86_400)
    assert addresses(one) == ("10.0.0.5",)
    assert a.network.poll_at() is None


def test_what_a_client_gives_back_is_no_longer_its_own() -> None:
    a, server, one, two = people()
    lease(one, server, "10.0.0.5")
    lease(one, server, "fd00::5", xid=2)
    a.network.take_events()
    assert drops(one, ask4(one, "release", own="10.0.0.5", to=SERVER)) == {}
    assert drops(one, ask6(one, "release", 3, "fd00::5")) == {}
    assert addresses(one) == ()
    assert len(events(a, EventKind.LEASE_ENDED)) == 2
    lease(two, server, "10.0.0.5")
    lease(two, server, "fd00::5", xid=2)


def test_a_client_that_declines_an_address_does_not_have_it() -> None:
    _, server, one, _ = people()
    lease(one, server, "10.0.0.5")
    lease(one, server, "fd00::5", xid=2)
    drops(one, ask4(one, "decline", 3, "10.0.0.5"), ask6(one, "decline", 4, "fd00::5"))
    assert addresses(one) == ()


def test_nobody_gives_back_what_is_anothers_or_claimed() -> None:
    _, server, one, two = people()
    lease(one, server, "10.0.0.5")
    lease(one, server, "fd00::5", xid=2)
    claim(two, "10.0.0.2")
    drops(two, ask4(two, "decline", 3, "10.0.0.5"), ask6(two, "release", 4, "fd00::5"))
    drops(two, ask4(two, "release", own="10.0.0.2", to=SERVER))
    assert addresses(one) == ("10.0.0.5", "fd00::5")
    assert addresses(two) == ("10.0.0.2",)


def test_a_server_takes_back_what_was_asked_about() -> None:
    _, server, one, two = people()
    lease(one, server, "10.0.0.5")
    nak = answer4(server, one.mac, kind="nak", xid=5, to=BROADCAST, ip="255.255.255.255")
    assert drops(server, nak) == {}
    assert addresses(one) == ("10.0.0.5",), "nobody asked"
    drops(two, ask4(two, xid=6, wanted="10.0.0.5"))
    drops(server, answer4(server, two.mac, kind="nak", xid=6, to=BROADCAST, ip="255.255.255.255"))
    assert addresses(one) == ("10.0.0.5",), "another was refused it"
    drops(one, ask4(one, xid=5, wanted="10.0.0.5"))
    drops(server, nak)
    assert addresses(one) == ()


def test_a_lifetime_of_zero_takes_an_address_back() -> None:
    _, server, one, _ = people()
    lease(one, server, "fd00::5")
    drops(one, ask6(one, "renew", 2, "fd00::5"))
    reply = answer6(server, one.mac, ("fd00::5", 0), ("fd00::6", 50), xid=2)
    assert drops(server, reply) == {}
    assert addresses(one) == ("fd00::6",)


# --- whose -------------------------------------------------------------------------------------


def test_nobody_takes_a_leased_address_while_its_owner_is_away() -> None:
    a, server, one, two = people()
    lease(one, server, "10.0.0.5", 1_000)
    one.close()
    with pytest.raises(AlreadyOpen, match="another owner's"):
        claim(two, "10.0.0.5")
    drops(two, ask4(two))
    assert drops(server, answer4(server, two.mac, "10.0.0.5")) == {DHCP_BINDING: 1}
    a.advance(1_000.0)
    claim(two, "10.0.0.5")


def test_a_device_that_comes_back_has_its_lease_and_another_one_has_not() -> None:
    a, server, one, _ = people()
    lease(one, server, "10.0.0.5", 1_000)
    one.close()
    assert addresses(a.open("eth1", "uid:1")) == ()
    again = a.open("eth0", "uid:1")
    assert addresses(again) == ("10.0.0.5",)
    assert drops(again, datagram(again, "10.0.0.5")) == {}
    a.advance(1_000.0)
    assert addresses(again) == ()


def test_a_claim_stays_a_claim_and_makes_a_lease_one() -> None:
    a, server, one, _ = people()
    claim(one, "10.0.0.5")
    lease(one, server, "10.0.0.5", 100)
    lease(one, server, "10.0.0.6", 100, xid=2)
    claim(one, "10.0.0.6")
    a.advance(200.0)
    assert addresses(one) == ("10.0.0.5", "10.0.0.6")


def test_an_address_of_policy_may_be_handed_out_to_its_device_only() -> None:
    mine = DevicePolicy("uid:1", "eth0", addresses=("10.0.0.5",))
    a, server, one, two = people(mine)
    lease(one, server, "10.0.0.5", 100)
    drops(two, ask4(two))
    assert drops(server, answer4(server, two.mac, "10.0.0.5")) == {DHCP_BINDING: 1}
    a.advance(200.0)
    assert addresses(one) == ("10.0.0.5",)


def test_a_late_clock_gives_an_ended_lease_to_who_asks_next() -> None:
    a, server, one, two = people()
    lease(one, server, "10.0.0.5", 100)
    a.now += 100.0  # and nobody looked at the timer
    lease(two, server, "10.0.0.5", 100)
    assert addresses(one) == ()
    assert list(drops(one, datagram(one, "10.0.0.5")).values()) == [1]


def test_renewals_are_written_down_now_and_then_only() -> None:
    a, server, one, _ = people()
    changes = a.network.addresses.changes
    lease(one, server, "10.0.0.5", 160)
    assert [change.address for change in changes] == ["10.0.0.5"]
    for xid in range(2, 40):
        a.advance(0.25)
        lease(one, server, "10.0.0.5", 160, xid)
    assert len(changes) == 1
    a.advance(0.5)
    lease(one, server, "10.0.0.5", 160, 40)
    assert len(changes) == 2


def test_the_server_may_be_a_client_of_another() -> None:
    second = DevicePolicy("uid:8", "gw", dhcp_server=True)
    a, server, _, _ = people(second)
    other = a.open("gw", "uid:8")
    lease(other, server, "10.0.0.5")
    assert SERVES.dhcp_server
