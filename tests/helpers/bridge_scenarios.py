"""What the kernel's forwarding selftests ask of a bridge, restated as frames in and frames out.

After tools/testing/selftests/net/forwarding of Linux: bridge_vlan_unaware, bridge_vlan_aware,
bridge_sticky_fdb, bridge_fdb_learning_limit, no_forwarding, bridge_port_isolation. Each scenario
is data: ports, what they send, and who gets it in which form. Where this switch decides otherwise
by design, the step says what it does instead and why; docs/linux-bridge.md has the same list.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BROADCAST = "ffffffffffff"
MULTICAST = "01005e000909"
MULTICAST6 = "333300000909"


def mac(number: int) -> str:
    """Return the address of station ``number``."""
    return f"0200000000{number:02x}"


@dataclass(frozen=True)
class Ports:
    """What a scenario needs of its ports, which are numbered from 1."""

    count: int = 4
    #: Ports on a second bridge, which is another network.
    second: tuple[int, ...] = ()
    isolated: tuple[int, ...] = ()
    #: Addresses that are pinned to ports.
    static: tuple[tuple[int, str], ...] = ()
    #: How many addresses are learned: behind the whole bridge, or behind each port of ours.
    limit: int = 0
    #: For VLAN-aware ones: the VLAN of access ports, and those of tagged ones.
    access: tuple[tuple[int, int], ...] = ()
    tagged: tuple[tuple[int, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class Step:
    """One frame from one port, and who gets it: port -> the VLAN tags that it has there.

    ``ours`` is what this switch does where that differs, and ``why`` the difference in words.
    """

    port: int
    to: str
    source: str
    gets: dict[int, str]
    tags: str = ""
    ours: dict[int, str] | None = None
    why: str = ""


@dataclass(frozen=True)
class Scenario:
    """A bridge and what happens at it, in order."""

    name: str
    steps: tuple[Step, ...]
    ports: Ports = field(default_factory=Ports)


def _all(*ports: int, tags: str = "") -> dict[int, str]:
    return dict.fromkeys(ports, tags)


STICKY = "sticky: an address that is pinned to a port does not move"
_LIMIT = 8
_STATIONS = range(1, 17)

_ISOLATED = (
    "an isolated port of a Linux bridge meets all that are not isolated; here an isolated device "
    "meets only ways out, uplinks and routers, since its neighbours are other users"
)

UNAWARE = (
    Scenario(
        "learning",
        (
            Step(1, mac(2), mac(1), _all(2, 3, 4)),
            Step(2, mac(1), mac(2), _all(1)),
            Step(1, mac(2), mac(1), _all(2)),
            Step(3, mac(2), mac(3), _all(2)),
            Step(3, mac(1), mac(3), _all(1)),
        ),
    ),
    Scenario(
        "a station that moves",
        (
            Step(1, BROADCAST, mac(1), _all(2, 3, 4)),
            Step(2, BROADCAST, mac(2), _all(1, 3, 4)),
            Step(2, mac(1), mac(2), _all(1)),
            Step(3, BROADCAST, mac(1), _all(1, 2, 4)),
            Step(2, mac(1), mac(2), _all(3)),
        ),
    ),
    Scenario(
        "flooding: unknown unicast, unregistered multicast, broadcast",
        (
            Step(1, mac(9), mac(1), _all(2, 3, 4)),
            Step(1, MULTICAST, mac(1), _all(2, 3, 4)),
            Step(1, MULTICAST6, mac(1), _all(2, 3, 4)),
            Step(1, BROADCAST, mac(1), _all(2, 3, 4)),
        ),
    ),
    Scenario(
        "never back out of the port that it came by",
        (
            Step(1, BROADCAST, mac(1), _all(2, 3, 4)),
            Step(1, BROADCAST, mac(5), _all(2, 3, 4)),
            Step(1, mac(5), mac(1), {}),
            Step(1, mac(1), mac(1), {}),
        ),
    ),
    Scenario(
        "a source that nobody can have",
        (
            Step(1, BROADCAST, "010000000001", {}),
            Step(1, BROADCAST, BROADCAST, {}),
            Step(1, BROADCAST, "000000000000", {}),
        ),
    ),
    Scenario(
        "reserved group addresses",
        (
            Step(
                1,
                "0180c2000000",
                mac(1),
                _all(2, 3, 4),
                ours={},
                why="with STP off a Linux bridge passes its frames on, so that others can find "
                "loops; here none of 01-80-C2-00-00-00..0F passes, as 802.1Q says",
            ),
            *(Step(1, f"0180c20000{last:02x}", mac(1), {}) for last in range(1, 16)),
            Step(1, "0180c2000010", mac(1), _all(2, 3, 4)),
        ),
    ),
    Scenario(
        "VLAN tags mean nothing to a bridge that is not told of VLANs",
        (
            Step(1, BROADCAST, mac(1), _all(2, 3, 4, tags="8100000a"), tags="8100000a"),
            Step(2, mac(1), mac(2), _all(1, tags="81000014"), tags="81000014"),
            Step(3, mac(1), mac(3), _all(1)),
            Step(4, mac(2), mac(4), _all(2, tags="88a8000a81000014"), tags="88a8000a81000014"),
        ),
    ),
    Scenario(
        STICKY,
        (
            Step(2, BROADCAST, mac(2), _all(1, 3, 4)),
            Step(2, mac(7), mac(2), _all(1)),
            Step(
                3,
                BROADCAST,
                mac(7),
                _all(1, 2, 4),
                ours={},
                why="a Linux bridge passes on what comes with the pinned address by another port; "
                "here it is taken for forged, and dropped as source_mac or own_outside",
            ),
            Step(2, mac(7), mac(2), _all(1)),
        ),
        Ports(static=((1, mac(7)),)),
    ),
    Scenario(
        "learning limit: 16 stations where 8 may be learned",
        (
            *(Step(1, BROADCAST, mac(0x10 + each), _all(2, 3, 4)) for each in _STATIONS),
            *(
                Step(
                    2,
                    mac(0x10 + each),
                    mac(0x10),
                    _all(1) if each <= _LIMIT else _all(1, 3, 4),
                    ours=_all(1, 3, 4) if each <= _LIMIT else _all(1),
                    why="a Linux bridge at its limit learns nothing new; here the port's oldest "
                    "goes, so that a burst of made-up addresses shuts nobody out for long",
                )
                for each in _STATIONS
            ),
        ),
        Ports(limit=_LIMIT),
    ),
    Scenario(
        "port isolation",
        (
            Step(1, BROADCAST, mac(1), _all(3, 4), ours={}, why=_ISOLATED),
            Step(2, mac(1), mac(2), {}),
            Step(3, BROADCAST, mac(3), _all(1, 2, 4), ours=_all(4), why=_ISOLATED),
            Step(4, mac(3), mac(4), _all(3)),
            Step(1, mac(3), mac(1), _all(3), ours={}, why=_ISOLATED),
        ),
        Ports(isolated=(1, 2)),
    ),
    Scenario(
        "no forwarding between two bridges",
        tuple(
            Step(1, to, mac(1), _all(2, tags=tags), tags=tags)
            for to in (mac(9), MULTICAST, MULTICAST6, BROADCAST)
            for tags in ("", *(f"8100{vid:04x}" for vid in range(1, 16)))
        ),
        Ports(second=(3, 4)),
    ),
)

_DROPS_TAGS = (
    "an access port takes no tags, not even that of its own VLAN or of VLAN 0: what the owner of "
    "a device is in, he does not get to say"
)
_DROPS_SECOND = "a tag behind a tag would be the tag of somebody later on: dropped, wherever it is"

AWARE_PORTS = Ports(
    access=((1, 10), (2, 10), (3, 20)),
    tagged=((4, (10, 20)),),
)
AWARE = (
    Scenario(
        "each VLAN is flooded by itself, with a tag where the port has tags",
        (
            Step(1, BROADCAST, mac(1), {2: "", 4: "8100000a"}),
            Step(3, BROADCAST, mac(3), {4: "81000014"}),
            Step(4, BROADCAST, mac(4), {1: "", 2: ""}, tags="8100000a"),
            Step(4, BROADCAST, mac(4), {3: ""}, tags="81000014"),
            Step(1, MULTICAST, mac(1), {2: "", 4: "8100000a"}),
            Step(1, mac(9), mac(1), {2: "", 4: "8100000a"}),
        ),
        AWARE_PORTS,
    ),
    Scenario(
        "each VLAN learns by itself",
        (
            Step(1, BROADCAST, mac(7), {2: "", 4: "8100000a"}),
            Step(3, BROADCAST, mac(7), {4: "81000014"}),
            Step(4, mac(7), mac(4), {1: ""}, tags="8100000a"),
            Step(4, mac(7), mac(4), {3: ""}, tags="81000014"),
            Step(2, mac(4), mac(2), {4: "8100000a"}),
            Step(3, mac(2), mac(3), {4: "81000014"}),
        ),
        AWARE_PORTS,
    ),
    Scenario(
        "what a tagged port may not send",
        (
            Step(4, BROADCAST, mac(4), {}),
            Step(4, BROADCAST, mac(4), {}, tags="8100001e"),
            Step(4, BROADCAST, mac(4), {}, tags="81000000"),
            Step(4, BROADCAST, mac(4), {}, tags="88a8000a"),
        ),
        AWARE_PORTS,
    ),
    Scenario(
        "tags from an access port",
        (
            Step(1, BROADCAST, mac(1), {}, tags="81000014"),
            Step(1, BROADCAST, mac(1), {}, tags="8100001e"),
            Step(
                1,
                BROADCAST,
                mac(1),
                {2: "", 4: "8100000a"},
                tags="8100000a",
                ours={},
                why=_DROPS_TAGS,
            ),
            Step(
                1,
                BROADCAST,
                mac(1),
                {2: "", 4: "8100000a"},
                tags="81000000",
                ours={},
                why=_DROPS_TAGS,
            ),
            Step(
                1,
                BROADCAST,
                mac(1),
                {2: "88a80014", 4: "8100000a88a80014"},
                tags="88a80014",
                ours={},
                why=_DROPS_TAGS,
            ),
        ),
        AWARE_PORTS,
    ),
    Scenario(
        "hopping with two tags",
        (
            Step(
                1,
                BROADCAST,
                mac(1),
                {2: "81000014", 4: "8100000a81000014"},
                tags="8100000a81000014",
                ours={},
                why=_DROPS_SECOND,
            ),
            Step(
                4,
                BROADCAST,
                mac(4),
                {1: "81000014", 2: "81000014"},
                tags="8100000a81000014",
                ours={},
                why=_DROPS_SECOND,
            ),
            Step(
                4,
                BROADCAST,
                mac(4),
                {3: "8100000a"},
                tags="810000148100000a",
                ours={},
                why=_DROPS_SECOND,
            ),
        ),
        AWARE_PORTS,
    ),
    Scenario(
        "no forwarding between two VLANs of access ports",
        tuple(
            Step(3, to, mac(3), {4: "81000014"})
            for to in (mac(9), MULTICAST, MULTICAST6, BROADCAST)
        ),
        AWARE_PORTS,
    ),
)
