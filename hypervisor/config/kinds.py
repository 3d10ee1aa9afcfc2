"""What a value may be: one :class:`Kind` for each sort of setting.

A kind reads the value that TOML gives (typed) or the text of a flag, and raises
:class:`BadValue` with a sentence and a hint. Reading is pure; users and groups, which
are looked up, are in :mod:`hypervisor.config.people`.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypervisor.config.model import Address, AddressRange, Interface, Subnet
from hypervisor.config.problems import closest

_NETWORK_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}")
_DEVICE_NAME = re.compile(r"[A-Za-z0-9._-]{1,127}")
_DEVICE_PATTERN = re.compile(r"[A-Za-z0-9._*-]{1,127}")
_MAC = re.compile(r"[0-9a-fA-F]{1,2}(?:[:-][0-9a-fA-F]{1,2}){5}")
#: The kernel allows more characters; a device, which is called like its interface, does not.
_INTERFACE = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,15}")
_OCTAL = re.compile(r"(?:0o?)?[0-7]{3}")


class BadValue(ValueError):
    """A value that its kind refuses; ``hint`` says what to write instead, if that is known."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Kind:
    """How one sort of value is read. ``many`` means a list of them (a repeated flag).

    ``alone`` is the text that a setting's word in a flag stands for without ``=VALUE``, "" where
    that is a mistake.
    """

    read: Callable[[object], Any]
    from_text: Callable[[str], object] = str
    many: bool = False
    alone: str = ""


def shown(value: object) -> str:
    """Write a value as TOML would, shortened, so that the reader recognises it."""
    if isinstance(value, int) and value.bit_length() > 256:
        text = "a huge number"  # Python refuses to write out the largest ones
    elif isinstance(value, str | bool | int | float):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, list):
        text = "an array"
    else:
        text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def text_of(value: object, what: str) -> str:
    """Return a value that is text. Raises BadValue, saying that it is not ``what``."""
    if not isinstance(value, str):
        hint = f'write it in quotes: "{shown(value)}"' if isinstance(value, int) else ""
        raise BadValue(f"{shown(value)} is not {what}", hint)
    if "\0" in value:
        raise BadValue(f"{shown(value)} holds a NUL byte")
    if not value.isascii() and any("\ud800" <= one <= "\udfff" for one in value):
        raise BadValue(f"{value!a} is not UTF-8", "rename it: clients are told of it as text")
    return value


def integer_text(text: str) -> object:
    """Return the number that the text is, else the text, for :func:`integer` to refuse."""
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,19}", text) else text


def integer(low: int, high: int) -> Kind:
    """A whole number from ``low`` to ``high``."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            quoted = isinstance(value, str) and value.isdecimal()
            raise BadValue(
                f"{shown(value)} is not a whole number from {low} to {high}",
                "leave out the quotes" if quoted else "",
            )
        if not low <= value <= high:
            raise BadValue(f"{shown(value)} is not between {low} and {high}")
        return value

    return Kind(read, integer_text)


def _seconds_text(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def seconds(low: float, high: float) -> Kind:
    """A duration in seconds from ``low`` to ``high``."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise BadValue(f"{shown(value)} is not a number of seconds from {low} to {high}")
        if not low <= value <= high:
            raise BadValue(f"{shown(value)} is not between {low} and {high} seconds")
        return float(value)

    return Kind(read, _seconds_text)


_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _truth_text(text: str) -> object:
    return _TRUTHS.get(text.lower(), text)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadValue(f"{shown(value)} is not true or false", "write true or false, no quotes")
    return value


def word(*choices: str) -> Kind:
    """One of some words."""

    def read(value: object) -> str:
        if value not in choices:
            raise BadValue(
                f"{shown(value)} is not one of {', '.join(choices)}", closest(str(value), choices)
            )
        return str(value)

    return Kind(read)


def _path(value: object) -> Path:
    text = text_of(value, "a path")
    if not text.startswith("/"):
        hint = "write out your home directory" if text.startswith("~") else ""
        raise BadValue(f"{shown(value)} is not an absolute path", hint or "begin it with /")
    return Path(os.path.normpath(text))


def _path_text(text: str) -> object:
    """Make a path of a flag absolute; ``~`` is left to the shell."""
    return os.path.abspath(text) if text and not text.startswith("~") else text


def _network_name(value: object) -> str:
    text = text_of(value, "a network's name")
    if not _NETWORK_NAME.fullmatch(text):
        raise BadValue(
            f"{shown(value)} is not a network's name",
            "use 1 to 63 of A-Z a-z 0-9 . _ - and do not begin with a dot",
        )
    return text


def _device_name(value: object) -> str:
    text = text_of(value, "a device's name")
    if not _DEVICE_NAME.fullmatch(text):
        raise BadValue(
            f"{shown(value)} is not a device's name", "use 1 to 127 of A-Z a-z 0-9 . _ -"
        )
    return text


def _device_pattern(value: object) -> str:
    text = text_of(value, "a device's name or pattern")
    if not _DEVICE_PATTERN.fullmatch(text):
        raise BadValue(
            f"{shown(value)} is not a device's name or pattern",
            "use 1 to 127 of A-Z a-z 0-9 . _ - and * for any characters",
        )
    return text


def _mac(value: object) -> bytes:
    text = text_of(value, "a MAC address")
    if not _MAC.fullmatch(text):
        raise BadValue(f"{shown(value)} is not a MAC address", 'write it as "52:54:00:12:34:56"')
    mac = bytes(int(part, 16) for part in re.split("[:-]", text))
    if mac[0] & 1:
        raise BadValue(
            f"{shown(value)} is a group address, which no device can have",
            f'clear the lowest bit of the first byte: "{mac[0] & 0xFE:02x}:..."',
        )
    if not any(mac):
        raise BadValue(f"{shown(value)} is nobody's address", "leave mac out to have one made")
    return mac


def _subnet(value: object) -> Subnet:
    text = text_of(value, "a subnet")
    if "/" not in text:
        raise BadValue(f"{shown(value)} has no prefix length", f'write for example "{text}/24"')
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        try:
            exact = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise BadValue(
                f"{shown(value)} is not a subnet", 'write for example "10.0.0.0/24" or "fd00::/64"'
            ) from error
        raise BadValue(
            f"{shown(value)} has bits set behind its prefix", f'did you mean "{exact}"?'
        ) from error


def _address(value: object) -> Address:
    text = text_of(value, "an IP address")
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        if "/" in text:
            raise BadValue(
                f"{shown(value)} has a prefix length",
                f'write the address alone: "{text.partition("/")[0]}"',
            ) from error
        raise BadValue(f"{shown(value)} is not an IPv4 or IPv6 address") from error
    if what := _unusable(address):
        raise BadValue(f"{shown(value)} is {what}, which no device can have")
    return address


def _interface(value: object) -> Interface:
    text = text_of(value, "an address with its prefix")
    if "/" not in text:
        raise BadValue(f"{shown(value)} has no prefix length", f'write for example "{text}/24"')
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError as error:
        raise BadValue(
            f"{shown(value)} is not an address with its prefix",
            'write for example "10.0.0.1/24" or "fd00::1/64"',
        ) from error
    if what := _unusable(interface.ip):
        raise BadValue(f"{shown(value)} is {what}, which no stack can have")
    network = interface.network
    if network.num_addresses > 2 and interface.ip == network.network_address:
        raise BadValue(
            f"{shown(value)} is the subnet itself", f'take an address of it: "{_first(network)}"'
        )
    few = network.version == 6 or network.prefixlen >= 31
    if not few and interface.ip == network.broadcast_address:
        raise BadValue(
            f"{shown(value)} is the broadcast address of its subnet",
            f'take another: "{_first(network)}"',
        )
    return interface


def _first(network: Subnet) -> str:
    return f"{network.network_address + 1}/{network.prefixlen}"


def _unusable(address: Address) -> str:
    """Say why no device may have the address, "" if one may (semantics of claims)."""
    if address.is_unspecified or (address.version == 4 and address.packed[0] == 0):
        return "the unspecified address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.version == 4 and address.packed[0] >= 240:
        return "a reserved address"
    if address.version == 6 and (address.ipv4_mapped is not None or int(address) < 2**32):
        return "an IPv4 address in disguise"
    return ""


#: EtherTypes that wrap other frames: opening one would open everything that can be put behind it.
_WRAPPERS = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300, 0x88E7, 0x8870)


def _ethertype(value: object) -> int:
    text = text_of(value, "an EtherType")
    if not re.fullmatch(r"0x[0-9a-fA-F]{4}", text):
        raise BadValue(f"{shown(value)} is not an EtherType", 'write four hex digits: "0x88b5"')
    number = int(text, 16)
    if number < 0x0600:
        raise BadValue(f"{shown(value)} is a length and no EtherType", "they begin at 0x0600")
    if number in _WRAPPERS:
        raise BadValue(
            f"{shown(value)} carries other frames inside, which nothing would look into",
            "make the device a trunk if that is what you want",
        )
    return number


def _uplink(value: object) -> str:
    """Read ``nic:IFACE``; returns the interface's name. It need not exist yet."""
    text = text_of(value, "an uplink")
    kind, colon, name = text.partition(":")
    if not colon:
        hint = f"write nic:{text or 'eth0'}"
        raise BadValue(f"{shown(text)} does not say what it leads to", hint)
    if kind != "nic":
        raise BadValue(f"{shown(text)} is no uplink that there is", "write nic:INTERFACE")
    if not _INTERFACE.fullmatch(name):
        raise BadValue(
            f"{shown(name)} is not an interface's name",
            "write the name that `ip link` shows: 1 to 15 of A-Z a-z 0-9 . _ -",
        )
    return name


def _mode(value: object) -> int:
    if not isinstance(value, str) or not _OCTAL.fullmatch(value):
        raise BadValue(f"{shown(value)} is not a file mode", 'write it in octal: "0660"')
    mode = int(value.removeprefix("0o"), 8)
    if not mode & 0o222:
        raise BadValue(
            f"{shown(value)} lets nobody connect", 'connecting needs the write bit: "0660"'
        )
    return mode


def _endpoint(value: object) -> tuple[str, int]:
    """Read HOST:PORT, HOST an address or "localhost"; which ones are safe, others know."""
    text = text_of(value, "HOST:PORT")
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise BadValue(f"{shown(value)} is not HOST:PORT", 'write for example "127.0.0.1:7331"')
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise BadValue(
            f"{shown(value)} names a host that is no address", 'write "127.0.0.1" or "[::1]"'
        ) from error
    if address.is_multicast:
        raise BadValue(f"{shown(value)} is a multicast address, where nobody can listen")
    return str(address), int(port)


def _range(value: object) -> bool | AddressRange:
    """Read FIRST-LAST, or true for the default range and false for none."""
    if isinstance(value, bool):
        return value
    written = text_of(value, "a range of addresses")
    first, dash, last = (part.strip() for part in written.partition("-"))
    try:
        found = AddressRange(ipaddress.IPv4Address(first), ipaddress.IPv4Address(last))
    except ValueError as error:
        raise BadValue(
            f"{shown(value)} is not a range of IPv4 addresses",
            'write for example "10.0.0.100-10.0.0.200"' if dash else "write FIRST-LAST, or nothing",
        ) from error
    if found.first > found.last:
        raise BadValue(f"{shown(value)} ends before it begins", f'write "{last}-{first}"')
    return found


TRUTH = Kind(_truth, _truth_text, alone="yes")
DHCP = Kind(_range, _truth_text, alone="yes")
PATH = Kind(_path, _path_text)
NETWORK_NAME = Kind(_network_name)
DEVICE_NAME = Kind(_device_name)
DEVICE_PATTERN = Kind(_device_pattern)
MAC = Kind(_mac)
MACS = Kind(_mac, many=True)
ETHERTYPES = Kind(_ethertype, many=True)
SUBNET = Kind(_subnet)
SUBNETS = Kind(_subnet, many=True)
ADDRESS = Kind(_address)
ADDRESSES = Kind(_address, many=True)
INTERFACES = Kind(_interface, many=True)
UPLINK = Kind(_uplink)
FILE_MODE = Kind(_mode)
ENDPOINT = Kind(_endpoint)
