"""The types of flags: each takes a text and returns its value.

All raise argparse.ArgumentTypeError with a sentence that says what was expected.
"""

from __future__ import annotations

import argparse
import ipaddress


def interface(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """Return an address with its prefix length."""
    if "/" not in text:
        raise argparse.ArgumentTypeError(f"{text}: give the prefix length too, such as {text}/24")
    try:
        return ipaddress.ip_interface(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an IP address."""
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error} (names are not looked up)") from None


def _number(text: str, low: float, high: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} of {low:g} to {high:g}")
    return value


def interface_name(text: str) -> str:
    """Return a name that an interface can have (dev_valid_name of the kernel, and no "%")."""
    good = text.isascii() and text.isprintable() and not set(text) & set("/: %")
    if not 0 < len(text) < 16 or not good or text in (".", "..", "lo"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name for an interface: 1 to 15 characters, such as eth0"
        )
    return text


def descriptor(text: str) -> int:
    """Return the number of a file descriptor."""
    return int(_number(text, 0, 2**20, "the number of a descriptor"))


def positive(text: str) -> int:
    """Return a number from 1 on."""
    return int(_number(text, 1, 2**31, "a number"))


def lines(text: str) -> int:
    """Return a number from 0 on."""
    return int(_number(text, 0, 4_096, "a number"))


def seconds(text: str) -> float:
    """Return a time in s."""
    return _number(text, 0.001, 86400, "a number of seconds")


def size(text: str) -> int:
    """Return a number of data bytes."""
    return int(_number(text, 0, 65000, "a number of bytes"))


def snapshot(text: str) -> int:
    """Return how much of a frame to keep, in bytes; 0 is all."""
    return int(_number(text, 0, 262_144, "a number of bytes")) or 262_144


def mtu(text: str) -> int:
    """Return an MTU in bytes."""
    return int(_number(text, 68, 65521, "a number of bytes"))
