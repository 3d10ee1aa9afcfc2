"""Rates as a configuration writes them: so many a second, or "unlimited"."""

from __future__ import annotations

from hypervisor.config.kinds import BadValue, Kind, integer_text, shown

#: What a rate is written as where there is to be none.
UNLIMITED = "unlimited"
_MAX_RATE = 10**12


def _rate(value: object) -> int:
    """Read so many a second; 0 stands for no limit."""
    if value == UNLIMITED:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValue(
            f"{shown(value)} is not a number a second from 1 to {_MAX_RATE}",
            f'leave out the quotes, or write "{UNLIMITED}"',
        )
    if not 1 <= value <= _MAX_RATE:
        raise BadValue(
            f"{shown(value)} is not between 1 and {_MAX_RATE}",
            f'write "{UNLIMITED}" for no limit' if value == 0 else "",
        )
    return value


RATE = Kind(_rate, integer_text)
