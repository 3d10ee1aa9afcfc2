"""What tcpdump -v adds about an IP packet: its header, and a header checksum that is wrong.

Like :mod:`hypervisor.wire.summary`, it is shown frames that anyone may have written: it never
raises, and prints nothing but numbers and words of its own.
"""

from __future__ import annotations

from hypervisor.wire import ethernet, ipv4, ipv6
from hypervisor.wire.errors import WireError


def details(frame: bytes) -> str:
    """Return the IP header's fields, "" for a frame that is not IP or is malformed.

    "tos 0x0, ttl 64, id 1, offset 0, flags [DF], proto 6, length 40"
    """
    try:
        link = ethernet.parse(frame)
        if link.ethertype == ethernet.ETHERTYPE_IPV4:
            return _ipv4(frame, link.payload_offset, link.payload_end)
        if link.ethertype == ethernet.ETHERTYPE_IPV6:
            return _ipv6(frame, link.payload_offset, link.payload_end)
    except WireError:
        return ""
    return ""


def _ipv4(frame: bytes, offset: int, end: int) -> str:
    view = ipv4.parse(frame, offset, end, verify_checksum=False)
    try:
        ipv4.parse(frame, offset, end)
        checksum = ""
    except WireError:
        checksum = ", bad header checksum"
    flags = "".join(
        name for is_set, name in ((view.dont_fragment, "DF"), (view.more_fragments, "+")) if is_set
    )
    return (
        f"tos 0x{view.tos:x}, ttl {view.ttl}, id {view.identification}, "
        f"offset {view.fragment_offset_bytes}, flags [{flags or 'none'}], proto {view.protocol}, "
        f"length {view.payload_end - offset}{checksum}"
    )


def _ipv6(frame: bytes, offset: int, end: int) -> str:
    view = ipv6.parse(frame, offset, end)
    return (
        f"class 0x{view.traffic_class:02x}, flowlabel 0x{view.flow_label:05x}, "
        f"hlim {view.hop_limit}, next-header {view.next_header}, "
        f"payload length {view.payload_end - view.payload_offset}"
    )
