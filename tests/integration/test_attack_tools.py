"""Real attack tools, as Debian has them, on a stack of their own behind a device.

Each is used twice in one run. Without a guard it must do harm: the victim's tables or his capture
say so, which proves that the tool and its use here are right. With the full guard the same must do
nothing: not one forged frame arrives, a hundred or more were discarded for the expected reason, the
victim's connection goes on with the right bytes, and the attacker's own honest traffic works.

The tools run in network namespaces that these tests make, as users without any privilege over the
machine, and reach nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.helpers.arena import MARK, PORT, Arena, arena

pytestmark = pytest.mark.slow

#: As many frames as must be discarded, and a few more that the tools send.
ENOUGH, SENT = 100, 110
#: Some tools go on until they are stopped: on a busy machine they may have hardly begun by then.
ATTEMPTS = 12
BAD_PREFIX = "2001:db8:bad::/64"
#: Hosts that are not there, for a tool that answers in everybody's place.
NOBODY = [f"fd05::{number:x}" for number in range(0x1000, 0x1000 + 60)]


@pytest.fixture(scope="module")
def unguarded() -> Iterator[Arena]:
    with arena("off") as made:
        yield made


@pytest.fixture(scope="module")
def guarded() -> Iterator[Arena]:
    with arena("full") as made:
        made.victim.stack.ask("connect", made.friend.ipv4, PORT)
        yield made


@dataclass(frozen=True, slots=True)
class Attack:
    """One use of one tool.

    ``reasons`` are those under which the guard may discard its frames. ``harm`` tells, with the
    guard off, whether the victim believes it; None: that the forged frames came is the harm.
    """

    name: str
    reasons: tuple[str, ...]
    act: Callable[[Arena], object]
    harm: Callable[[Arena], bool] | None = None


def arpspoof(there: Arena) -> None:
    # One frame every two seconds from each: so many at once, and no waiting.
    victim, friend = there.victim.ipv4, there.friend.ipv4
    command = ("arpspoof", "-i", "eth0", "-t", victim, friend)
    there.attacker.stack.ask("many", command, SENT, 0.8)


def takes_the_friends_place(there: Arena) -> bool:
    return there.neighbours().get(there.friend.ipv4) == there.attacker.mac


def takes_the_friends_place_in_ipv6(there: Arena) -> bool:
    return there.neighbours().get(there.friend.ipv6) == there.attacker.mac


def is_the_router(there: Arena) -> bool:
    return there.attacker.link_local in there.routers()


def has_many_routers(there: Arena) -> bool:
    return len(there.routers()) > 10


def answers_for_nobody(there: Arena) -> bool:
    known = there.neighbours()
    return there.attacker.mac in [known.get(each) for each in NOBODY]


def tool(*command: str, seconds: float = 5.0) -> Callable[[Arena], None]:
    """Return what runs a command on the attacker's stack; names in braces are filled in."""

    def act(there: Arena) -> None:
        names = {
            "victim": there.victim,
            "friend": there.friend,
            "me": there.attacker,
            "mark": MARK.decode(),
        }
        filled = [word.format(**names) for word in command]
        there.attacker.stack.run(*filled, seconds=seconds)

    return act


def fake_router(*flags: str) -> Callable[[Arena], None]:
    options = (*flags, "-A", BAD_PREFIX, "-i", "0", "-n", str(SENT))
    return tool("atk6-fake_router26", *options, "eth0")


def fake_advertise(*flags: str) -> Callable[[Arena], None]:
    options = (*flags, "-n", str(SENT), "-w", "0", "eth0")
    return tool("atk6-fake_advertise6", *options, "{friend.ipv6}", "{victim.ipv6}")


def parasite(there: Arena) -> None:
    mine = there.attacker.stack
    mine.ask("start", "parasite", ("atk6-parasite6", "eth0"))
    # It does not say when it listens: who is not answered solicits three times, a second apart.
    there.victim.stack.ask("datagrams", NOBODY, 9)
    mine.run("ping", "-c3", "-i0.8", "-q", there.victim.ipv4)
    mine.ask("stop", "parasite")


def mausezahn(*flags: str) -> Callable[[Arena], None]:
    command = ("mausezahn", "eth0", "-q", "-c", str(SENT), "-b", "{victim.mac}", *flags)
    return tool(*command)


def yersinia(protocol: str, attack: int, *flags: str) -> Callable[[Arena], None]:
    command = ("yersinia", "-l", "/dev/null", protocol, "-attack", str(attack), *flags)
    return tool(*command, "-interface", "eth0", seconds=0.3)


SPOOFED = ("-A", "{friend.ipv4}", "-B", "{victim.ipv4}", "-P", "{mark}")
STRANGE = ("source_mac", "group_source")
RA = ("router_advertisement",)
HIDDEN = ("router_advertisement", "nd_hidden", "fragment", "source_ipv6", "malformed")

ATTACKS = [
    Attack("arpspoof", ("arp_sender",), arpspoof, takes_the_friends_place),
    Attack("macof", STRANGE, tool(
        "macof", "-i", "eth0", "-d", "{victim.ipv4}", "-e", "{victim.mac}", "-n", "300")),
    Attack("fake_router26", RA, fake_router(), is_the_router),
    Attack("fake_router26-hop-by-hop", RA, fake_router("-E", "H"), is_the_router),
    Attack("fake_router26-atomic-fragment", RA, fake_router("-E", "1"), is_the_router),
    Attack("fake_router26-both", RA, fake_router("-E", "H111"), None),
    Attack("fake_router26-fragmented-by-a-large-header", HIDDEN, fake_router("-E", "D")),
    Attack("fake_router26-full-evasion", HIDDEN, fake_router("-E", "F")),
    Attack("fake_router26-overlap-keep-first", HIDDEN, fake_router("-E", "O")),
    Attack("fake_router26-overlap-keep-last", HIDDEN, fake_router("-E", "o")),
    Attack("fake_advertise6", ("nd_forged",), fake_advertise(), takes_the_friends_place_in_ipv6),
    Attack("fake_advertise6-hop-by-hop", ("nd_hidden",), fake_advertise("-H"),
           takes_the_friends_place_in_ipv6),
    Attack("fake_advertise6-fragment", ("nd_hidden",), fake_advertise("-f")),
    Attack("parasite6", ("nd_forged",), parasite, answers_for_nobody),
    Attack("yersinia-cdp", STRANGE, yersinia("cdp", 1)),
    Attack("yersinia-cdp-own-mac", ("length_encoded",), yersinia("cdp", 1, "-M")),
    Attack("yersinia-dhcp", STRANGE, yersinia("dhcp", 1)),
    Attack("yersinia-dhcp-own-mac", ("dhcp_client",), yersinia("dhcp", 1, "-M")),
    Attack("mausezahn-arp", ("arp_sender",), mausezahn("-t", "arp",
           "reply, smac={me.mac}, sip={friend.ipv4}, tmac={victim.mac}, tip={victim.ipv4}"),
           takes_the_friends_place),
    Attack("mausezahn-udp", ("source_ipv4",), mausezahn(*SPOOFED, "-t", "udp", "dp=53")),
    Attack("mausezahn-reset", ("source_ipv4",), mausezahn(
        *SPOOFED, "-t", "tcp", f"dp={PORT},flags=rst")),
    Attack("mausezahn-strange-mac", ("source_mac",), mausezahn(
        "-a", "02:00:00:00:00:99", *SPOOFED, "-t", "udp", "dp=53")),
    Attack("mausezahn-random-mac", STRANGE, mausezahn(
        "-a", "rand", *SPOOFED, "-t", "udp", "dp=53")),
    Attack("mausezahn-tags-of-vlan-0", ("vlan_tag",), mausezahn(
        "-Q", "0,0", *SPOOFED, "-t", "icmp", "redirect")),
    Attack("flood_router26", STRANGE, tool(
        "atk6-flood_router26", "eth0", seconds=0.05), has_many_routers),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=[each.name for each in ATTACKS])
def test_it_does_harm_without_the_guard_and_none_with_it(
    attack: Attack, unguarded: Arena, guarded: Arena
) -> None:
    does_harm(attack, unguarded)
    does_none(attack, guarded)


def does_harm(attack: Attack, there: Arena) -> None:
    there.watched()
    # Who is not known is not replaced either.
    for address in (there.friend.ipv4, there.friend.ipv6):
        assert there.victim.stack.succeeds("ping", "-c1", "-w9", "-i0.2", address)
    forged: list[bytes] = []
    for _ in range(ATTEMPTS):
        attack.act(there)
        assert there.attacker.stack.succeeds("ping", "-c1", "-w9", "-i0.2", there.victim.ipv4)
        harmed = attack.harm is None or attack.harm(there)
        forged += there.forged(at_most=4 * ENOUGH)
        if harmed and len(forged) >= ENOUGH / 4:
            break
        # Once more then: for a second (`locktime`) a stack keeps what ARP has just told it.
        there.attacker.stack.run("ping", "-q", "-c2", "-i0.6", there.victim.ipv4)
    else:
        pytest.fail(f"the control failed: the tool does no harm, {len(forged)} forged frames came")
    there.recover()


def does_none(attack: Attack, there: Arena) -> None:
    there.watched()
    before = there.discards()
    turns = there.victim.stack.ask("lively")["turns"]
    for _ in range(ATTEMPTS):
        attack.act(there)
        there.attacker_is_well()
        assert there.forged() == []
        discarded = there.discards() - before
        if sum(discarded.values()) >= ENOUGH:
            break
    assert set(discarded) <= set(attack.reasons), discarded
    assert sum(discarded.values()) >= ENOUGH
    assert attack.harm is None or not attack.harm(there)
    assert there.neighbours().get(there.friend.ipv4) == there.friend.mac
    live = there.victim.stack.ask("lively")
    assert live["error"] == ""
    assert live["turns"] > turns, "the victim's connection has stopped"
