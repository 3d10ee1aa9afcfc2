"""What devices are called in DNS: ``DEVICE.OWNER.NETWORK.internal`` (RFC 1035, RFC 1123).

Every owner has a zone of his own, which is the first that his devices search: nobody can take a
name there but himself. What a client says of itself (DHCP option 12) is never a name. Device and
network names may hold what labels may not, so names are made of them, or are left out; two owners
never have one label.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

#: Set aside for private use (ICANN board resolution 2024.07.29.06). Only the network's own part
#: of it is answered here, since others use other parts.
_TOP: Final = "internal"
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_MAX_SLUG: Final = 40
#: Labels that are made, so that no user's name may look like one.
_MADE: Final = ("uid-", "by-")


def host_label(name: str) -> str:
    """Return the DNS label of a device's or network's name, "" if nothing of it fits into one."""
    label = re.sub(r"[^a-z0-9-]", "-", name.lower()).strip("-")
    return label if _LABEL.fullmatch(label) else ""


def owner_label(owner: str, user: str = "") -> str:
    """Return the label of an owner as the server writes him ("uid:1000"); ``user`` is his name."""
    if user and _LABEL.fullmatch(user) and not user.startswith(_MADE):
        return user
    kind, _, number = owner.partition(":")
    if kind == "uid" and number.isdecimal():
        return f"uid-{number}"
    # A certificate's subject may hold anything: what is left of it is for people, the digest tells.
    slug = host_label(owner[:_MAX_SLUG])
    digest = hashlib.sha256(owner.encode()).hexdigest()[:12]
    return f"by-{slug}-{digest}" if slug else f"by-{digest}"


def zone(network: str) -> str:
    """Return the zone of a network."""
    return f"{host_label(network) or 'network'}.{_TOP}"
