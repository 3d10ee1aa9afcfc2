"""What any bytes must keep to: targets for a fuzzer, each a function of bytes that asserts it.

Nothing here may raise anything. Time is bounded by counting: the lines of Python that a verdict
took, which on this machine or that, busy or not, are the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from types import FrameType
from typing import Any

from hypervisor.guard import (
    Guard,
    GuardPolicy,
    Prefix,
    Templates,
    inspect_burst,
    judge,
    spread,
    templates,
)
from hypervisor.wire import arp, dhcp, ethernet, icmp, icmpv6, ipv4, ipv6, offload, tcp, udp
from hypervisor.wire.errors import WireError
from hypervisor.wire.offload import OffloadError
from hypervisor.wire.summary import summary
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES

MTU = 1500
MAC, RECEIVER_MAC = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
IPV4, RECEIVER_IPV4 = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
IPV6, RECEIVER_IPV6 = b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(14) + b"\2"
#: Lines of Python that a verdict may take: so many at most, and so many more for each byte. DHCP's
#: options may have two bytes each, and a turn of the loop over them has some ten lines.
MOST_LINES, MOST_LINES_A_BYTE = 1_000, 8


def policy_of(choices: int) -> GuardPolicy:
    """Return one of 256 policies."""
    return GuardPolicy(
        MAC,
        ipv4=frozenset({IPV4} if choices & 1 else ()),
        ipv6=frozenset({IPV6} if choices & 2 else ()),
        prefixes=(Prefix.of(IPV4, 24), Prefix.of(IPV6, 64)) if choices & 4 else (),
        router=bool(choices & 8),
        dhcp_server=bool(choices & 16),
        ethertypes=frozenset({0x88B5} if choices & 32 else ()),
        extra_macs=frozenset({RECEIVER_MAC} if choices & 64 else ()),
        implied=frozenset({ipv6.eui64(IPV6[:8], MAC)} if choices & 128 else ()),
    )


RECEIVER = Guard(
    GuardPolicy(RECEIVER_MAC, ipv4=frozenset({RECEIVER_IPV4}), ipv6=frozenset({RECEIVER_IPV6}))
)
ADDRESSED = {RECEIVER_MAC: RECEIVER}


@cache
def guard_of(choices: int) -> tuple[Guard, Templates, Templates]:
    """Return the guard of a policy, its templates, and those toward the receiver."""
    own = policy_of(choices)
    forms, narrowed = templates(own), templates(own, RECEIVER.policy)
    assert forms is not None
    assert narrowed is not None
    return Guard(own), forms, narrowed


def lines_of(function: Callable[[], object]) -> int:
    """Return how many lines of Python a call runs."""
    count = 0

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return local

    before = sys.gettrace()
    sys.settrace(lambda frame, event, argument: local)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def guard(data: bytes) -> None:
    """Any frame gets a verdict, the same at any place, and the fast ways do not contradict it."""
    (each, anybody, narrowed), frame = guard_of(data[0] if data else 0), data[1:]
    own = each.policy
    verdict = judge(own, frame)
    assert judge(own, bytes(12) + frame, 12) == verdict
    assert verdict is None or str(verdict).isprintable()
    common = each.common(frame, 0, len(frame), {})
    assert not (common and verdict), verdict
    assert anybody.passes(frame) == common
    if frame[:6] == RECEIVER_MAC:
        assert narrowed.passes(frame) == each.common(frame, 0, len(frame), ADDRESSED)
    if len(frame) >= ethernet.ETHERNET_HEADER_BYTES:
        found = each.screen([frame, frame], 0, ADDRESSED)
        assert len(found) in (0, 2)
    RECEIVER.judge_toward(frame)
    lines = lines_of(lambda: judge(own, frame))
    assert lines <= MOST_LINES + MOST_LINES_A_BYTE * len(frame), lines


def wire(data: bytes) -> None:
    """Each parser returns a view or says what is wrong; the summary is one line for people."""
    for offset in (0, 14, 34, 54):
        for parse in (ethernet.parse, arp.parse, ipv6.parse, udp.parse, tcp.parse, dhcp.parse):
            with suppress(WireError):
                parse(data, offset)
        for parse_message in (icmpv6.parse_neighbour, icmpv6.parse_discovery):
            with suppress(WireError):
                parse_message(data, offset)
        with suppress(WireError):
            ipv4.parse(data, offset, verify_checksum=False)
        with suppress(WireError):
            icmp.parse(data, offset, verify_checksum=False)
    assert summary(data).isprintable()


def ingress(data: bytes) -> None:
    """What a link brings passes or is counted once, and can be finished for any receiver."""
    for vnet_header in (True, False):
        for each in spread([data]) if vnet_header else [data]:
            enters(each, vnet_header)
    with suppress(OffloadError):
        if len(data) >= VNET_HEADER_BYTES:
            offload.cut_udp(data)


def enters(data: bytes, vnet_header: bool) -> None:
    """One frame is judged."""
    passed, needs, discards = inspect_burst([data], vnet_header, MTU, False)
    assert len(passed) + sum(discards.values()) == 1
    if not passed or needs is None:
        return
    assert passed[0][VNET_HEADER_BYTES:] == data[VNET_HEADER_BYTES:]
    assert offload.quick_check(passed[0], len(passed[0]), MTU) in (needs[0], -1)
    for plain in offload.finish(passed[0], needs[0]):
        assert ethernet.ETHERNET_HEADER_BYTES <= len(plain) <= 14 + MTU
        assert plain[:14] == data[12:26]


def compiled(data: bytes) -> None:
    """Compiled code says of a frame what Python says."""
    from hypervisor.links import _burst  # type: ignore[attr-defined]

    (_, *every), frame = guard_of(data[0] if data else 0), data[1:]
    for forms in every:
        assert _burst.templates_pass(forms.packed(), frame) == forms.passes(frame)
    for mtu in (MTU, 576, 65_520):
        said = _burst.quick_check(frame, mtu)
        assert said == offload.quick_check(frame, len(frame), mtu)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (guard, wire, ingress, compiled)
}
