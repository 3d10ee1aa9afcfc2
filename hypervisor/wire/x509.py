"""How long an X.509 certificate is good (RFC 5280, section 4.1), and nothing else of it.

Only certificates that a TLS library has verified are read here, so signatures, extensions and names
are its business. The walk is over DER (X.690, section 10): definite lengths in their shortest form.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from hypervisor.wire.errors import WireError, need

_SEQUENCE = 0x30
_VERSION = 0xA0
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18

#: Longest length field taken: certificates have kilobytes, and two bytes say 65,535.
_MAX_LENGTH_BYTES = 3


@dataclass(frozen=True, slots=True)
class Validity:
    """When a certificate is good, in Unix seconds; both ends are included."""

    not_before_s: int
    not_after_s: int

    def problem(self, now_s: float) -> str:
        """Say why it is not good at ``now_s`` (Unix time), "" if it is."""
        if now_s < self.not_before_s:
            return f"is not valid before {_written(self.not_before_s)}"
        # RFC 5280 gives whole seconds: the last of them is the certificate's to its end.
        if now_s >= self.not_after_s + 1:
            return f"expired at {_written(self.not_after_s)}"
        return ""


def parse_validity(der: bytes) -> Validity:
    """Return when a certificate is good. Raises WireError for what is none."""
    _, start, end = _element(der, 0, len(der), _SEQUENCE, "certificate")
    _, start, end = _element(der, start, end, _SEQUENCE, "tbsCertificate")
    tag, _, after = _element(der, start, end, None, "version")
    if tag == _VERSION:
        start = after
    for field in ("serialNumber", "signature", "issuer"):
        _, _, start = _element(der, start, end, None, field)
    _, start, end = _element(der, start, end, _SEQUENCE, "validity")
    not_before, start = _time(der, start, end, "notBefore")
    not_after, start = _time(der, start, end, "notAfter")
    if start != end:
        raise WireError("x509", "validity", f"{end - start} bytes more", "two times")
    return Validity(not_before, not_after)


def _element(
    der: bytes, start: int, end: int, expected: int | None, field: str
) -> tuple[int, int, int]:
    """Return tag, begin and end of the contents of the element at ``start``."""
    need("x509", 2, start, end)
    tag, first = der[start], der[start + 1]
    if expected is not None and tag != expected:
        raise WireError("x509", field, f"tag {tag:#04x}", f"tag {expected:#04x}")
    begin = start + 2
    size = first
    if first & 0x80:
        count = first & 0x7F
        if not 1 <= count <= _MAX_LENGTH_BYTES:
            raise WireError("x509", field, f"{count} bytes of length", "1 to 3")
        need("x509", count, begin, end)
        size = int.from_bytes(der[begin : begin + count], "big")
        begin += count
        if size < 0x80 or size < 1 << 8 * (count - 1):
            raise WireError("x509", field, "a length written too long", "its shortest form")
    need("x509", size, begin, end)
    return tag, begin, begin + size


def _time(der: bytes, start: int, end: int, field: str) -> tuple[int, int]:
    """Return a Unix time and where it ends: RFC 5280 has seconds and Z, and no other form."""
    tag, begin, after = _element(der, start, end, None, field)
    digits = der[begin : after - 1]
    wanted = {_UTC_TIME: 12, _GENERALIZED_TIME: 14}.get(tag)
    if wanted != len(digits) or not digits.isdigit() or der[after - 1] != ord("Z"):
        raise WireError("x509", field, f"{after - begin} bytes, tag {tag:#04x}", "a time in UTC")
    text = digits.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    try:
        moment = datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise WireError("x509", field, text, "a time that there is") from error
    return int(moment.timestamp()), after


def _written(unix_time_s: int) -> str:
    return datetime.fromtimestamp(unix_time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
