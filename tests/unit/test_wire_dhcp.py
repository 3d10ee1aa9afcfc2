"""DHCP as the guard reads it: what scapy makes is read alike, and nothing is read in two ways."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import (
    DUID_LL,
    DHCP6_Reply,
    DHCP6OptClientId,
    DHCP6OptDNSServers,
    DHCP6OptIA_NA,
    DHCP6OptIAAddress,
)

from hypervisor.wire import dhcp, dhcpv6
from hypervisor.wire.errors import WireError

MAC = bytes.fromhex("525400000001")
COOKIE = bytes((99, 130, 83, 99))
FIXED = bytes((1, 1, 6, 0)) + bytes(24) + MAC + bytes(202)


def options(*pairs: tuple[int, bytes]) -> bytes:
    """Return a message with these options, and an end."""
    body = b"".join(bytes((code, len(value))) + value for code, value in pairs)
    return FIXED + COOKIE + body + b"\xff"


def option6(code: int, value: bytes) -> bytes:
    """Return one option of DHCPv6."""
    return code.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value


def address6(last: int, valid_s: int) -> bytes:
    """Return an IAADDR option."""
    where = bytes((0xFD, *bytes(14), last))
    return option6(5, where + bytes(4) + valid_s.to_bytes(4, "big"))


def test_every_field_is_where_scapy_put_it() -> None:
    message = BOOTP(op=2, xid=0x01020304, ciaddr="10.0.0.1", yiaddr="10.0.0.2", chaddr=MAC)
    message.giaddr = "10.0.0.3"
    message /= DHCP(
        options=[
            ("message-type", "ack"),
            ("pad"),
            ("lease_time", 3_600),
            ("requested_addr", "10.0.0.4"),
            ("client_id", b"\x01" + MAC),
            ("hostname", b"somebody"),
            "end",
        ]
    )
    assert dhcp.parse(bytes(message)) == dhcp.Dhcp(
        operation=dhcp.BOOT_REPLY,
        transaction=bytes((1, 2, 3, 4)),
        client_address=bytes((10, 0, 0, 1)),
        your_address=bytes((10, 0, 0, 2)),
        relay_address=bytes((10, 0, 0, 3)),
        client_mac=MAC,
        message=dhcp.ACK,
        requested_address=bytes((10, 0, 0, 4)),
        lease_s=3_600,
        client_identifier=b"\x01" + MAC,
    )


def test_what_is_missing_is_none() -> None:
    found = dhcp.parse(FIXED)
    options_found = (
        found.message,
        found.requested_address,
        found.lease_s,
        found.client_identifier,
    )
    assert options_found == (None,) * 4


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (FIXED[:-1], "length"),
        (bytes((1, 6, 6)) + FIXED[3:], "hardware type"),
        (options((53, b"\x05\x05")), "length of option 53 is 2, expected 1"),
        (options((51, b"\0\0\0")), "length of option 51 is 3, expected 4"),
        (options((50, b"")), "length of option 50 is 0, expected 4"),
        (options((53, b"\x05"), (53, b"\x02")), "option 53 is there twice"),
        (options((61, b"a"), (61, b"b")), "option 61 is there twice"),
        (options((52, b"\x01")), "option 52 is there"),
        (FIXED + COOKIE + b"\x35", "length"),
        (FIXED + COOKIE + b"\x35\x02\x01", "length"),
        (FIXED + COOKIE + bytes(1_501), "number of options"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(message: bytes, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        dhcp.parse(message)


def test_a_server_may_have_more_options_elsewhere_that_are_not_read() -> None:
    found = dhcp.parse(options((52, b"\x03"), (53, b"\x05")), overloaded=True)
    assert found.message == dhcp.ACK


def test_addresses_of_dhcpv6_are_where_scapy_put_them() -> None:
    def association(number: int, *addresses: tuple[str, int]) -> DHCP6OptIA_NA:
        inside = [DHCP6OptIAAddress(addr=each, validlft=valid) for each, valid in addresses]
        return DHCP6OptIA_NA(iaid=number, ianaopts=inside)

    message = DHCP6_Reply(trid=0x010203) / DHCP6OptDNSServers(dnsservers=["fd00::53"])
    message /= DHCP6OptClientId(duid=DUID_LL(lladdr="52:54:00:00:00:01"))
    message /= association(1, ("fd00::1", 60), ("fd00::2", 0xFFFFFFFF))
    message /= association(2, ("fd00::3", 0))
    assert dhcpv6.parse(bytes(message)) == dhcpv6.Dhcpv6(
        message=dhcpv6.REPLY,
        transaction=bytes((1, 2, 3)),
        client_identifier=bytes((0, 3, 0, 1)) + MAC,
        addresses=tuple(
            dhcpv6.Leased(socket.inet_pton(socket.AF_INET6, text), valid_s)
            for text, valid_s in (("fd00::1", 60), ("fd00::2", 0xFFFFFFFF), ("fd00::3", 0))
        ),
    )


HEAD6 = bytes((7, 1, 2, 3))


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (b"", "length"),
        (b"\x07\x01\x02", "length"),
        (b"\0\0\0\0", "message type"),
        (b"\x0c\0\0\0", "message type is 12"),
        (HEAD6 + b"\0", "length"),
        (HEAD6 + b"\0\x01\0\x05abcd", "length"),
        (HEAD6 + option6(1, b"a") * 2, "option 1 is there twice"),
        (HEAD6 + option6(1, b""), "length of option 1"),
        (HEAD6 + option6(1, bytes(131)), "length of option 1"),
        (HEAD6 + option6(3, bytes(11)), "length"),
        (HEAD6 + option6(3, bytes(12) + option6(5, bytes(23))), "length"),
        (HEAD6 + option6(3, bytes(12) + b"\0\x05\0"), "length"),
        (HEAD6 + option6(9, b"") * 65, "number of options"),
        (HEAD6 + option6(3, bytes(12) + option6(9, b"") * 65), "number of options"),
        (HEAD6 + option6(3, bytes(12) + address6(1, 1) * 9) * 2, "number of addresses"),
    ],
)
def test_dhcpv6_that_is_cut_or_endless_is_refused(message: bytes, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        dhcpv6.parse(message)


def test_as_many_options_as_are_walked_may_be_there() -> None:
    assert dhcpv6.parse(HEAD6 + option6(9, b"") * 64).addresses == ()


@given(st.binary(max_size=400), st.booleans(), st.integers(0, 20))
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes, framed: bool, cut: int) -> None:
    for parse, whole in (
        (dhcp.parse, FIXED + COOKIE + data if framed else data),
        (dhcpv6.parse, HEAD6 + data if framed else data),
    ):
        with suppress(WireError):
            assert parse(b"\xee" * cut + whole, cut) == parse(whole)


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.lists(st.tuples(st.integers(0, 255), st.integers(0, 99)))),
        max_size=4,
    )
)
def test_dhcpv6_that_is_made_is_read_back(given_: list[tuple[int, list[tuple[int, int]]]]) -> None:
    message, expected = HEAD6, []
    for skipped, addresses in given_:
        message += option6(23, bytes(skipped))
        message += option6(3, bytes(12) + b"".join(address6(*each) for each in addresses))
        expected += [(bytes((0xFD, *bytes(14), last)), valid_s) for last, valid_s in addresses]
    if len(expected) > dhcpv6.MAX_ADDRESSES:
        with pytest.raises(WireError):
            dhcpv6.parse(message)
        return
    assert [(each.address, each.valid_s) for each in dhcpv6.parse(message).addresses] == expected
