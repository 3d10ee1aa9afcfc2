"""The one exception that parsing raises."""

from __future__ import annotations


class WireError(ValueError):
    """Bytes that are not what they claim to be.

    ``layer`` and ``field`` say where ("ipv4", "total length"), ``found`` and ``expected`` what.
    The text is one sentence, safe to show and to log: it never holds raw bytes of the frame.
    """

    def __init__(self, layer: str, field: str, found: object, expected: object) -> None:
        super().__init__(f"{layer}: {field} is {found}, expected {expected}")
        self.layer = layer
        self.field = field
        self.found = found
        self.expected = expected


def need(layer: str, size_bytes: int, offset: int, end: int) -> None:
    """Raise WireError unless ``size_bytes`` bytes fit between ``offset`` and ``end``."""
    if offset < 0 or end - offset < size_bytes:
        raise WireError(layer, "length", max(end - offset, 0), f"at least {size_bytes}")


def bounds(buffer: bytes | bytearray | memoryview, end: int | None) -> int:
    """Return ``end``, or the length of the buffer where ``end`` is None or lies behind it."""
    size = len(buffer)
    return size if end is None or end > size else end
