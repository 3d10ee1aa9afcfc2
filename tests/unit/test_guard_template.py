"""A template says what it says about bits, and nothing about frames too short to have them."""

from __future__ import annotations

import pytest

from hypervisor.guard import GuardPolicy, templates
from hypervisor.guard.common import MAX_ADDRESSES
from hypervisor.guard.template import MAX_TEMPLATES, TEMPLATE_BYTES, Template, Templates

#: An untagged IPv4 frame without options from 10.0.0.1: EtherType, version and length, source.
IPV4 = Template(
    bytes(12) + b"\xff\xff\xff" + bytes(11) + b"\xff" * 4,
    bytes(12) + b"\x08\x00\x45" + bytes(11) + b"\x0a\0\0\x01",
)
FRAME = bytes(range(12)) + b"\x08\0\x45\x77\0\x38" + b"\x77" * 8 + b"\x0a\0\0\x01" + b"\x99" * 40


def changed(at: int, to: int) -> bytes:
    return FRAME[:at] + bytes((to,)) + FRAME[at + 1 :]


def test_only_masked_bits_are_compared() -> None:
    assert IPV4.matches(FRAME)
    assert IPV4.matches(b"offload head" + FRAME, 12)
    assert IPV4.matches(changed(0, 0xEE))
    assert IPV4.matches(changed(25, 0xEE))
    assert not IPV4.matches(changed(14, 0x46))
    assert not IPV4.matches(changed(29, 2))


def test_single_bits_can_be_masked() -> None:
    odd = Template(b"\x01", b"\x01")
    assert odd.matches(b"\x03")
    assert not odd.matches(b"\x02")


def test_a_frame_shorter_than_the_mask_does_not_match() -> None:
    assert IPV4.matches(FRAME[:30])
    assert not IPV4.matches(FRAME[:29])
    assert not Template(b"\0", b"\0").matches(b"")


def test_the_first_template_that_matches_decides() -> None:
    never_to_67 = Template(bytes(36) + b"\xff\xff", bytes(36) + b"\0\x43", passes=False)
    templates = Templates((never_to_67, IPV4))
    assert templates.passes(FRAME)
    assert not templates.passes(changed(36, 0)[:37] + b"\x43" + FRAME[38:])
    assert not templates.passes(changed(13, 6))
    assert not Templates().passes(FRAME)


def test_a_packet_must_fill_its_frame() -> None:
    everything = Templates((Template(b"\0", b"\0"),))
    ipv6 = bytes(12) + b"\x86\xdd" + b"\x60\0\0\0\0\x08" + bytes(42)
    arp = bytes(12) + b"\x08\x06" + bytes(46)
    for frame, passes in ((FRAME, False), (ipv6, False), (arp, True)):
        assert everything.passes(frame)
        assert everything.passes(frame[:20], 0, len(frame))
        assert everything.passes(frame + b"\0") == passes
        assert everything.passes(frame, 0, len(frame) - 1) == passes


@pytest.mark.parametrize(
    ("mask", "value", "says"),
    [
        (b"", b"", f"1 to {TEMPLATE_BYTES} bytes"),
        (b"\xff", b"\1\2", "equally many"),
        (bytes(TEMPLATE_BYTES + 1), bytes(TEMPLATE_BYTES + 1), "1 to 88 bytes"),
        (b"\x0f", b"\x10", "could never match"),
    ],
)
def test_a_template_that_makes_no_sense_is_refused(mask: bytes, value: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Template(mask, value)


def test_a_list_of_templates_is_bounded() -> None:
    assert len(Templates([IPV4] * MAX_TEMPLATES)) == MAX_TEMPLATES
    with pytest.raises(ValueError, match="at most 512 templates, not 513"):
        Templates([IPV4] * (MAX_TEMPLATES + 1))


def test_whoever_has_many_addresses_has_templates_of_some() -> None:
    """More than anybody can claim: the operator may write a whole rack's."""
    own = [
        frozenset(n.to_bytes(size, "big") for n in range(1 << 28, 500 + (1 << 28)))
        for size in (4, 16)
    ]
    for opened in ({}, {"router": True}, {"dhcp_server": True}, {"preset": "mac"}):
        sender = GuardPolicy(b"\x52\x54\0\0\0\1", ipv4=own[0], ipv6=own[1], **opened)
        receiver = GuardPolicy(b"\x52\x54\0\0\0\2", ipv4=own[0], ipv6=own[1])
        made = templates(sender, receiver)
        assert made is not None
        assert 2 * MAX_ADDRESSES < len(made) <= MAX_TEMPLATES


def test_every_group_must_let_a_frame_pass() -> None:
    to_56 = Template(bytes(17) + b"\xff", bytes(17) + b"\x38", group=1)
    not_77 = Template(bytes(15) + b"\xff", bytes(15) + b"\x77", passes=False, group=1)
    assert Templates((IPV4, to_56)).passes(FRAME)
    assert Templates((to_56, IPV4)).passes(FRAME)
    assert not Templates((IPV4, to_56)).passes(changed(29, 2))
    assert not Templates((IPV4, not_77, to_56)).passes(FRAME)
    assert Templates((IPV4, to_56, not_77)).passes(FRAME), "the first of a group decides"
    assert not Templates((IPV4, not_77)).passes(changed(15, 1)), "nothing of a group matches"


def test_a_group_has_a_number_from_0_to_7() -> None:
    with pytest.raises(ValueError, match="0 to 7, not 8"):
        Template(b"\0", b"\0", group=8)


def test_packed_templates_have_a_fixed_size() -> None:
    packed = Templates((IPV4, Template(b"\x01", b"\x01", passes=False, group=3))).packed()
    size = 4 + 2 * TEMPLATE_BYTES
    assert len(packed) == 2 * size
    assert packed[:4] == bytes((30, 1, 0, 0))
    assert packed[4 : 4 + TEMPLATE_BYTES] == IPV4.mask.ljust(TEMPLATE_BYTES, b"\0")
    assert packed[size : size + 5] == bytes((1, 0, 3, 0, 1))
