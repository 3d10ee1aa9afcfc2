"""Any bytes get a verdict, and the three ways to say it never disagree.

Frames are honest and forged ones with bytes changed where it matters, and arbitrary bytes; policies
have every mixture of addresses and opened rules. scapy, which shares nothing with our parsers,
judges what passed.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_RA, ICMPv6ND_Redirect, IPv6
from scapy.layers.l2 import ARP, Ether

from hypervisor.engine import drops
from hypervisor.guard import COMMON_BYTES, Discard, Guard, GuardPolicy, judge, templates
from hypervisor.guard.template import TEMPLATE_BYTES
from tests.helpers.data_paths import NOT_BUILT, compiled
from tests.helpers.guard_strategies import frames, policies
from tests.helpers.guarded import (
    IP4,
    IP6,
    LL,
    MAC,
    VICTIM_IP4,
    VICTIM_IP6,
    mac_bytes,
    packed,
    policy,
)

REASONS = {value for name, value in vars(drops).items() if name.isupper()}


@given(frames(), policies())
def test_any_bytes_get_a_verdict_and_all_ways_agree(frame: bytes, own: GuardPolicy) -> None:
    guard = Guard(own)
    verdict = guard.judge(frame)
    if verdict is not None:
        assert verdict.reason in REASONS
        assert str(verdict).isprintable()
    assert judge(own, b"\xff" * 12 + frame, 12) == verdict
    common = guard.common(frame, 0, len(frame), {})
    assert common == guard.common(frame[:COMMON_BYTES], 0, len(frame), {}), "the head is enough"
    forms = templates(own)
    assert forms is not None
    quick = forms.passes(frame)
    assert quick == forms.passes(frame[:TEMPLATE_BYTES], 0, len(frame)), "the head is enough"
    assert common == quick
    if not NOT_BUILT:
        assert compiled().templates_pass(forms.packed(), frame) == quick
    assert not (common and verdict)
    found = dict(guard.screen([frame, frame], 0, {})) if len(frame) >= 14 else {}
    assert found == ({} if verdict is None or len(frame) < 14 else {0: verdict, 1: verdict})


@given(frames())
def test_what_passes_is_truthful_as_scapy_reads_it(frame: bytes) -> None:
    own = policy()
    if judge(own, frame) is not None:
        return
    packet: Any = Ether(frame)
    assert packet.src == MAC
    assert packet.type in (0x0800, 0x0806, 0x86DD)
    upper = packet.payload
    if isinstance(upper, IP):
        assert upper.src in (IP4, "0.0.0.0")
        if isinstance(upper.payload, UDP):
            assert upper.payload.dport != 68
    elif isinstance(upper, IPv6):
        assert upper.src in (IP6, LL, "::")
        for forbidden in (ICMPv6ND_RA, ICMPv6ND_Redirect):
            assert not isinstance(upper.payload, forbidden)
        if isinstance(upper.payload, ICMPv6ND_NA):
            assert upper.payload.tgt in (IP6, LL)
    elif isinstance(upper, ARP):
        assert upper.hwsrc == MAC
        assert upper.psrc in (IP4, "0.0.0.0")


@given(frames(), st.booleans(), st.booleans())
def test_toward_a_device_its_templates_say_what_its_guard_says(
    frame: bytes, has_ipv4: bool, has_ipv6: bool
) -> None:
    receiver = Guard(
        GuardPolicy(
            mac_bytes("52:54:00:00:00:02"),
            ipv4=frozenset({packed(VICTIM_IP4)} if has_ipv4 else ()),
            ipv6=frozenset({packed(VICTIM_IP6)} if has_ipv6 else ()),
        )
    )
    frame = receiver.source + frame[6:]
    sender = Guard(policy())
    addressed = {receiver.source: receiver} if receiver.policy.addressed else {}
    common = sender.common(frame, 0, len(frame), addressed)
    narrowed = templates(sender.policy, receiver.policy)
    assert narrowed is not None
    assert common == narrowed.passes(frame)
    if not NOT_BUILT:
        assert compiled().templates_pass(narrowed.packed(), frame) == common
    if common:
        assert receiver.judge_toward(frame) is None
    if len(frame) >= 14 and sender.judge(frame) is None:
        late = receiver.judge_toward(frame)
        found = [Discard] if sender.screen([frame], 0, addressed) else []
        assert bool(found) == (late is not None)
