"""Claims that could meet somebody are held, and he is asked; nobody else waits."""

from __future__ import annotations

import ipaddress
from typing import Any, Literal

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from hypervisor.engine.quotas import Limits
from hypervisor.errors import AlreadyOpen, DeviceError, InvalidDest, NoMemory, ServerDied
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.policy import DevicePolicy
from hypervisor.mach.probes import INTERVAL_S, LONGEST_S, PER_OWNER
from hypervisor.nic import Handle
from hypervisor.requests import Claim, Claimed, EventKind, ReleaseLease, Unclaim
from tests.helpers.core import Port, World
from tests.helpers.dhcp_talk import addresses, lease

HOST = "02:00:00:00:00:07"
#: An address of each family, and the group that a solicitation for it goes to.
FAMILIES = ["10.0.0.5", "fd00::5"]


def world(*policies: DevicePolicy, **options: Any) -> World:
    return World(options={"guard": "full", "policies": policies, **options})


def plug(a: World, name: str = "lan") -> Handle:
    uplink = a.network.open_outlet(UPLINK_OWNER, name, "nic", "eno1")
    a.network.attach(uplink, "nic", a.now, vnet_header=False, accepts=0)
    return uplink


def ask(port: Port, address: str) -> int:
    """Submit a claim and return its number."""
    return port.world.submit(Claim(port.world.number(), port.caller, port.port, address))


def error(a: World, number: int) -> DeviceError:
    found = a.done[number].error
    assert found is not None
    return found


def wire(a: World, uplink: Handle) -> list[bytes]:
    """Return what was sent out by the uplink."""
    frames = [frame for frame, _ in a.network.egress(uplink, 100)]
    a.network.written(uplink, len(frames), {}, a.now)
    return frames


def bring(a: World, uplink: Handle, *frames: Any) -> None:
    a.network.ingress(uplink, [bytes(each) for each in frames], a.now)
    a.collect()
    a.advance(0.0)


def answer(address: str, claimant: Port, host: str = HOST) -> Any:
    """Return what a host says that has the address."""
    if ":" not in address:
        layer = Ether(src=host, dst=claimant.mac.hex(":"))
        return layer / ARP(op=2, hwsrc=host, psrc=address, hwdst=claimant.mac.hex(":"))
    layer = Ether(src=host, dst="33:33:00:00:00:01") / IPv6(src=address, dst="ff02::1", hlim=255)
    return layer / ICMPv6ND_NA(tgt=address, R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=host)


@pytest.mark.parametrize("address", FAMILIES)
def test_without_uplink_and_former_holder_nobody_waits(address: str) -> None:
    a = world()
    one = a.open("eth0", "uid:1")
    assert a.done[ask(one, address)].result == Claimed(address, 86_400)
    assert a.network.poll_at() is None


@pytest.mark.parametrize("address", FAMILIES)
def test_with_an_uplink_the_wire_is_asked_and_silence_is_consent(address: str) -> None:
    a = world()
    uplink, one = plug(a), a.open("eth0", "uid:1")
    number = ask(one, address)
    assert number not in a.done
    sent = wire(a, uplink)
    a.advance(LONGEST_S - 0.01)
    assert number not in a.done
    assert addresses(one) == (), "it is not his before"
    sent += wire(a, uplink)
    assert len(sent) == 3
    for frame in sent:
        probe = Ether(frame)
        assert probe.src == one.mac.hex(":")
        if ":" in address:
            assert (probe[IPv6].src, probe[IPv6].dst) == ("::", "ff02::1:ff00:5")
            assert (probe[IPv6].hlim, probe[ICMPv6ND_NS].tgt) == (255, address)
            assert probe.dst == "33:33:ff:00:00:05"
        else:
            assert (probe.dst, probe[ARP].op) == ("ff:ff:ff:ff:ff:ff", 1)
            assert (probe[ARP].psrc, probe[ARP].pdst) == ("0.0.0.0", address)
            assert probe[ARP].hwsrc == one.mac.hex(":")
    a.advance(0.01)
    assert a.done[number].result == Claimed(address, 86_400)
    assert addresses(one) == (address,)
    assert a.done[ask(one, address)].result == Claimed(address, 86_400), "he has it: no question"
    a.audit()


@pytest.mark.parametrize("address", FAMILIES)
@pytest.mark.parametrize("when_s", [0.0, INTERVAL_S, LONGEST_S - 0.01])
def test_whoever_answers_keeps_his_address(address: str, when_s: float) -> None:
    a = world()
    uplink, one = plug(a), a.open("eth0", "uid:1")
    number = ask(one, address)
    a.advance(when_s)
    bring(a, uplink, answer(address, one))
    found = error(a, number)
    assert isinstance(found, AlreadyOpen)
    assert found.message == (
        f"address {address} is in use behind uplink lan, by {HOST}, which answered a probe; "
        "choose another"
    )
    assert addresses(one) == ()
    assert a.network.poll_at() is None
    with pytest.raises(AlreadyOpen, match="in use behind uplink lan, by 02:00:00:00:00:07 0 s ago"):
        raise error(a, ask(one, address))


def test_a_neighbour_who_was_silent_for_long_is_found() -> None:
    a, address = world(), "10.0.0.5"
    uplink, one = plug(a), a.open("eth0", "uid:1")
    bring(a, uplink, Ether(src=HOST) / ARP(hwsrc=HOST, psrc=address, pdst="10.0.0.9"))
    a.advance(301.0)
    number = ask(one, address)
    bring(a, uplink, answer(address, one))
    assert isinstance(error(a, number), AlreadyOpen)


@pytest.mark.parametrize("address", FAMILIES)
def test_who_probes_on_the_wire_at_the_same_time_wins(address: str) -> None:
    a = world()
    uplink, one = plug(a), a.open("eth0", "uid:1")
    number = ask(one, address)
    if ":" in address:
        probe = Ether(src=HOST, dst="33:33:ff:00:00:05")
        probe /= IPv6(src="::", dst="ff02::1:ff00:5", hlim=255) / ICMPv6ND_NS(tgt=address)
    else:
        probe = Ether(src=HOST) / ARP(hwsrc=HOST, psrc="0.0.0.0", pdst=address)
    bring(a, uplink, probe)
    assert isinstance(error(a, number), AlreadyOpen)


def test_what_is_no_answer_stops_nobody() -> None:
    a = world(DevicePolicy("uid:2", "mac", guard="mac"))
    uplink, one, two = plug(a), a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    number = ask(one, "10.0.0.5")
    six = ask(one, "fd00::5")
    bring(
        a,
        uplink,
        answer("10.0.0.6", one),
        answer("fd00::6", one),
        Ether(src=HOST) / ARP(hwsrc=HOST, psrc="10.0.0.9", pdst="10.0.0.5"),
        Ether(src=HOST)
        / IPv6(src="fd00::9", dst="ff02::1:ff00:5", hlim=255)
        / ICMPv6ND_NS(tgt="fd00::5"),
        bytes(answer("10.0.0.5", one))[:30],
        bytes(answer("fd00::5", one))[:60],
        Ether(src=one.mac.hex(":")) / ARP(hwsrc=one.mac.hex(":"), psrc="10.0.0.5", pdst="10.0.0.5"),
    )
    # Anybody here may probe for any address, and nobody may answer for another's.
    asks = Ether(src=two.mac.hex(":")) / ARP(
        hwsrc=two.mac.hex(":"), psrc="0.0.0.0", pdst="10.0.0.5"
    )
    lies = Ether(src=two.mac.hex(":")) / ARP(op=2, hwsrc=two.mac.hex(":"), psrc="10.0.0.5")
    two.write([bytes(asks), bytes(lies)])
    a.advance(LONGEST_S)
    assert a.done[number].error is None
    assert a.done[six].error is None


@pytest.mark.parametrize("preset", ["full", "mac"])
def test_a_device_that_may_speak_for_the_address_is_heard(preset: Literal["full", "mac"]) -> None:
    range_ = (ipaddress.ip_network("10.0.0.0/28"),)
    a = world(DevicePolicy("uid:9", "router", prefixes=range_, guard=preset))
    plug(a)
    one, other = a.open("eth0", "uid:1"), a.open("router", "uid:9")
    number = ask(one, "10.0.0.5")
    other.write(bytes(answer("10.0.0.5", one, other.mac.hex(":"))))
    a.advance(0.0)
    assert f"at device router, by {other.mac.hex(':')}" in error(a, number).message


def test_an_address_that_was_anothers_is_asked_for_before_it_changes_hands() -> None:
    a = world()
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    a.call(Claim(a.number(), one.caller, one.port, "10.0.0.5"))
    a.call(Unclaim(a.number(), one.caller, one.port, "10.0.0.5"))
    a.call(Claim(a.number(), one.caller, one.port, "10.0.0.5"))
    a.call(Unclaim(a.number(), one.caller, one.port, "10.0.0.5"))
    one.take()
    number = ask(two, "10.0.0.5")
    assert number not in a.done
    assert len(one.take()) == 1, "he who had it is asked"
    # Who has no right to it any more cannot keep it from others.
    one.write(bytes(answer("10.0.0.5", two, one.mac.hex(":"))))
    a.advance(LONGEST_S)
    assert a.done[number].result == Claimed("10.0.0.5", 86_400)


def test_released_by_the_operator_it_may_be_claimed_by_another() -> None:
    a = world()
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    a.call(Claim(a.number(), one.caller, one.port, "10.0.0.5"))
    root = type(one.caller)("uid:0", "", True)
    info = a.call(ReleaseLease(a.number(), root, "10.0.0.5"))
    assert (info.owner, info.in_use, addresses(one)) == ("uid:1", True, ())
    number = ask(two, "10.0.0.5")
    a.advance(LONGEST_S)
    assert a.done[number].error is None


# --- held -------------------------------------------------------------------------------------


def test_of_twenty_who_claim_an_address_exactly_one_gets_it() -> None:
    a = world()
    plug(a)
    ports = [a.open("eth0", f"uid:{number}") for number in range(20)]
    numbers = [ask(port, "10.0.0.5") for port in ports]
    a.advance(LONGEST_S)
    won = [number for number in numbers if a.done[number].error is None]
    assert won == numbers[:1]
    for number in numbers[1:]:
        assert "is being claimed by another" in error(a, number).message
    owners = [port for port in ports if addresses(port)]
    assert owners == ports[:1]


def test_a_held_claim_is_cancelled_and_another_may_go_on() -> None:
    a = world()
    uplink, one, two = plug(a), a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    number = ask(one, "10.0.0.5")
    assert a.cancel(number)
    assert not a.cancel(number)
    assert a.network.poll_at() is None
    bring(a, uplink, answer("10.0.0.9", two))
    other = ask(two, "10.0.0.5")
    a.advance(LONGEST_S)
    assert a.done[other].error is None
    assert addresses(one) == ()


def test_a_claim_asked_twice_waits_once_and_each_is_answered() -> None:
    a = world()
    uplink, one = plug(a), a.open("eth0", "uid:1")
    numbers = [ask(one, "10.0.0.5"), ask(one, "10.0.0.5")]
    a.advance(LONGEST_S)
    assert len(wire(a, uplink)) == 3
    assert [a.done[number].error for number in numbers] == [None, None]
    events = [each.kind for each in a.network.take_events()]
    assert EventKind.CLAIMED in events


def test_what_is_held_ends_with_its_port_and_with_the_server() -> None:
    a = world()
    plug(a)
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    closed, stopped = ask(one, "10.0.0.5"), ask(two, "10.0.0.6")
    one.close()
    assert isinstance(error(a, closed), InvalidDest)
    a.network.stop(a.now)
    a.collect()
    assert isinstance(error(a, stopped), ServerDied)
    assert a.network.poll_at() is None


def test_claims_that_are_held_are_bounded() -> None:
    a = world()
    plug(a)
    one = a.open("eth0", "uid:1")
    numbers = [ask(one, f"10.0.0.{last}") for last in range(1, PER_OWNER + 1)]
    assert not any(number in a.done for number in numbers)
    assert isinstance(error(a, ask(one, "10.0.0.99")), NoMemory)
    again = [ask(one, "10.0.0.1") for _ in range(PER_OWNER)]
    assert isinstance(error(a, again[-1]), NoMemory)
    a.advance(LONGEST_S)
    assert all(a.done[number].error is None for number in numbers)
    assert isinstance(error(a, ask(one, "10.0.0.98")), NoMemory), "8 a device"


def test_dhcp_may_be_faster_than_a_claim_that_is_held() -> None:
    server = DevicePolicy("uid:9", "gw", addresses=("10.0.0.254",), dhcp_server=True)
    a = world(server)
    plug(a)
    gateway, one, two = a.open("gw", "uid:9"), a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    number = ask(one, "10.0.0.5")
    lease(two, gateway, "10.0.0.5")
    a.advance(LONGEST_S)
    assert "another owner's" in error(a, number).message
    assert addresses(two) == ("10.0.0.5",)


def test_a_clock_that_is_looked_at_late_gives_answers_their_time() -> None:
    a = world()
    uplink, one = plug(a), a.open("eth0", "uid:1")
    number = ask(one, "10.0.0.5")
    a.now += 60.0
    a.network.tick(a.now)
    a.now += 60.0
    a.network.tick(a.now)
    a.collect()
    assert len(wire(a, uplink)) == 3
    assert number not in a.done
    bring(a, uplink, answer("10.0.0.5", one))
    assert isinstance(error(a, number), AlreadyOpen)


def test_a_full_sender_still_asks() -> None:
    a = World(limits=Limits(tx_slots=4, rx_slots=4), options={"guard": "mac"})
    uplink, one, two = plug(a), a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    two.take()
    one.write([one.frame(two)] * 40)
    number = ask(one, "10.0.0.5")
    assert len(wire(a, uplink)) == 1
    bring(a, uplink, answer("10.0.0.5", one))
    assert isinstance(error(a, number), AlreadyOpen)


def test_on_a_vlan_the_wire_is_asked_on_that_vlan() -> None:
    tagged = DevicePolicy(UPLINK_OWNER, "lan", vlans=(5, 6))
    a = world(tagged, DevicePolicy("uid:1", "eth0", vlan=5))
    uplink, one = plug(a), a.open("eth0", "uid:1")
    ask(one, "10.0.0.5")
    (frame,) = wire(a, uplink)
    assert frame[12:16] == b"\x81\0\0\5"
