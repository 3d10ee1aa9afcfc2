"""The Internet checksum (RFC 1071, RFC 1624), as fast as plain Python does it.

The one's complement sum of 16-bit words is arithmetic modulo 0xFFFF: 2**16 is 1 there, so the whole
buffer, read as one big-endian integer, is congruent to the sum of its words. ``int.from_bytes`` and
one ``%`` run in C; a loop over words would take ten times as long.

One distinction needs care: the residue 0 has two forms in one's complement, 0 (nothing but zeros
was summed) and 0xFFFF. A sum here is 0 only for all-zero data, else in 1..0xFFFF, exactly what
adding with end-around carry would leave.
"""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview


def partial(data: Buffer) -> int:
    """Return the one's complement sum of ``data``, 0..0xFFFF; odd data are padded with a zero.

    Sums of pieces may be added (all but the last piece of even length) and given to
    :func:`finish`, or added first and folded by it.
    """
    value = int.from_bytes(data, "big")
    if len(data) & 1:
        value <<= 8
    return value % 0xFFFF or (0xFFFF if value else 0)


def finish(total: int) -> int:
    """Return the checksum for ``total``, any sum of partial sums: its folded complement.

    0xFFFF only when ``total`` is 0, that is when nothing but zeros was summed.
    """
    return -total % 0xFFFF if total else 0xFFFF


def checksum(data: Buffer, initial: int = 0) -> int:
    """Return the checksum of ``data``, whose checksum field must be zero.

    ``initial`` is a sum to start from, such as :func:`pseudo_header`'s.
    """
    return finish(initial + partial(data))


def is_right(data: Buffer, initial: int = 0) -> bool:
    """Return whether ``data``, checksum field included, sums to what a right checksum leaves."""
    return (initial + partial(data)) % 0xFFFF == 0


def update(value: int, old_word: int, new_word: int) -> int:
    """Return the checksum after one 16-bit word of the data has changed (RFC 1624).

    ``value`` was right before. The result is what :func:`checksum` makes of the new data, unless
    these are all zeros; the residue is reduced, so equation 2's wrong zero cannot come of it.
    """
    return (value + old_word - new_word) % 0xFFFF


def pseudo_header(source: Buffer, destination: Buffer, protocol: int, length_bytes: int) -> int:
    """Return the sum of the pseudo header of IPv4 (RFC 9293 §3.1) or IPv6 (RFC 8200 §8.1).

    ``source`` and ``destination`` are both 4 or both 16 bytes; ``length_bytes`` is that of the
    transport header and its payload. The two differ only in layout, never in sum.
    """
    if len(source) != len(destination) or len(source) not in (4, 16):
        raise ValueError(
            f"a pseudo header takes two addresses of 4 or of 16 bytes, "
            f"not of {len(source)} and {len(destination)}"
        )
    return partial(source) + partial(destination) + protocol + length_bytes


def transport(source: Buffer, destination: Buffer, protocol: int, segment: Buffer) -> int:
    """Return the checksum of a whole TCP, UDP or ICMPv6 message whose checksum field is zero.

    UDP's own rule, that 0 is sent as 0xFFFF (RFC 768), is left to the caller.
    """
    return checksum(segment, pseudo_header(source, destination, protocol, len(segment)))
