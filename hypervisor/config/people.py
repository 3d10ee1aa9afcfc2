"""Users, groups and owners as a configuration names them; names are looked up on this machine."""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable

from hypervisor.config.kinds import BadValue, Kind, shown, text_of

#: A peer with this uid is a stranger to the server's user namespace (kernel overflowuid).
OVERFLOW_UID = 65_534
#: A group with this gid is unknown to the server's user namespace (kernel overflowgid).
OVERFLOW_GID = 65_534
_MAX_ID = 2**32 - 2
# A subject as the server writes it (RFC 2253): TYPE=value behind commas without spaces; in a value
# what is structure, or no printable ASCII, has a backslash before it.
_VALUE = r'(?! )(?:\\[ -~]|[^,+"\\<>;])*'
_PAIR = rf"(?:[A-Za-z][A-Za-z0-9-]*|[0-9.]+)={_VALUE}"
_SUBJECT = re.compile(rf"(?=[ -~]{{1,256}}\Z){_PAIR}(?:[,+]{_PAIR})*")


def _number(value: object, look_up: Callable[[str], int], what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadValue(f"{shown(value)} is not a {what}'s name or number")
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,10}", value):
        try:
            return look_up(value)
        except (KeyError, ValueError) as error:
            raise BadValue(f"there is no {what} {shown(value)} on this machine") from error
    number = int(value)
    if not 0 <= number <= _MAX_ID:
        raise BadValue(f"{shown(value)} is not between 0 and {_MAX_ID}")
    return number


def _user(value: object) -> int:
    return _number(value, lambda name: pwd.getpwnam(name).pw_uid, "user")


def _group(value: object) -> int:
    return _number(value, lambda name: grp.getgrnam(name).gr_gid, "group")


def _owner(value: object) -> str:
    if value == "tcp:loopback":
        return "tcp:loopback"
    if isinstance(value, str) and value.startswith("cert:"):
        return _certificate(value)
    if isinstance(value, str) and value.startswith("gid:"):
        raise BadValue(
            f"{shown(value)} is a group, and a device has one owner",
            "write a [[policy]] for what a group may",
        )
    return f"uid:{_owner_uid(value)}"


def _any_owner(value: object) -> str:
    """Read an owner or a group of owners."""
    if isinstance(value, str) and value.startswith("gid:"):
        gid = _group(value.removeprefix("gid:"))
        if gid == OVERFLOW_GID:
            raise BadValue(
                f"{shown(value)} stands for all groups that the server cannot tell apart"
            )
        return f"gid:{gid}"
    return _owner(value)


def _certificate(value: str) -> str:
    subject = value.removeprefix("cert:")
    if not _SUBJECT.fullmatch(subject):
        raise BadValue(
            f"{shown(value)} names no certificate's subject",
            'write for example "cert:CN=alice", as openssl x509 -noout -subject -nameopt RFC2253 '
            "prints it",
        )
    return text_of(value, "an owner")


def _owner_uid(value: object) -> int:
    if isinstance(value, str):
        value = value.removeprefix("uid:")
    uid = _user(value)
    if uid == OVERFLOW_UID:
        raise BadValue(
            f"{shown(value)} is uid {OVERFLOW_UID}, which stands for strangers and owns nothing"
        )
    return uid


USER = Kind(_user)
GROUP = Kind(_group)
OWNER = Kind(_owner)
#: An owner or a group of them.
ANY_OWNER = Kind(_any_owner)
OWNER_UID = Kind(_owner_uid)
