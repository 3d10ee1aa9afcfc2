"""Templates: a guard's verdicts on common frames, as comparisons that need no parser.

Most of what a device sends has one of a few forms: IPv4 without options from its own address, TCP
inside; the same of IPv6; ARP and neighbour discovery about itself. What a form asks of one part of
a frame is a *template*: some bits at fixed places of its first :data:`TEMPLATE_BYTES`. Templates
are in *groups*, one for each part (whom from, whom to, of which kind), so that their number is the
sum of the possibilities and not the product. In each group the first template that matches decides,
and a frame passes if every group lets it. A frame that matches none of a group, or first one that
says ``passes=False``, is asked of the guard itself, which remains the only judge: templates may
pass only what the guard would pass, whatever the bytes they leave out are. One thing that no mask
can say goes with all of them: the length of an IPv4 or IPv6 packet must be that of its frame (total
length + 14, payload length + 54), or the frame is asked of the guard as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

#: How much of a frame templates see, from its destination address on.
TEMPLATE_BYTES: Final = 88
#: The most templates of one guard toward one receiver. Beyond the addresses that are written down
#: (:data:`hypervisor.guard.common.MAX_ADDRESSES`, in six places) there are few.
MAX_TEMPLATES: Final = 512
MAX_GROUPS: Final = 8


@dataclass(frozen=True, slots=True)
class Template:
    """A masked comparison: byte ``i`` of the frame, and ``mask[i]``, is ``value[i]``, for each.

    Both have the same length, at most :data:`TEMPLATE_BYTES`; bytes beyond are not looked at. A
    frame that is shorter than the mask does not match. ``passes=False`` is an exception to what
    comes after it in its ``group`` (0 to 7): such a frame needs the guard's own verdict.
    """

    mask: bytes
    value: bytes
    passes: bool = True
    group: int = 0

    def __post_init__(self) -> None:
        if not 0 < len(self.mask) == len(self.value) <= TEMPLATE_BYTES:
            raise ValueError(f"mask and value are 1 to {TEMPLATE_BYTES} bytes, equally many")
        if any(value & ~mask for mask, value in zip(self.mask, self.value, strict=True)):
            raise ValueError("value has bits outside of mask: the template could never match")
        if not 0 <= self.group < MAX_GROUPS:
            raise ValueError(f"a group is 0 to {MAX_GROUPS - 1}, not {self.group}")

    def matches(self, frame: bytes, offset: int = 0) -> bool:
        """Tell whether the frame that begins at ``offset`` has this form."""
        head = frame[offset : offset + len(self.mask)]
        bits = int.from_bytes(head) & int.from_bytes(self.mask)
        return len(head) == len(self.mask) and bits == int.from_bytes(self.value)


class Templates(tuple[Template, ...]):
    """A guard's templates in their order. Without any, every frame is asked of the guard."""

    __slots__ = ()

    def __new__(cls, templates: Iterable[Template] = ()) -> Templates:
        """Make the list. Raises ValueError for more than :data:`MAX_TEMPLATES`."""
        made = super().__new__(cls, templates)
        if len(made) > MAX_TEMPLATES:
            raise ValueError(f"at most {MAX_TEMPLATES} templates, not {len(made)}")
        return made

    def passes(self, frame: bytes, offset: int = 0, size: int | None = None) -> bool:
        """Tell whether in every group the first template that matches lets the frame pass.

        It has ``size`` bytes; ``frame`` may be its head, with :data:`TEMPLATE_BYTES` of it, and
        ``size`` None means that it is all. A packet of IP must fill its frame: no cut one passes,
        and none with padding.
        """
        size = len(frame) - offset if size is None else size
        decided: set[int] = set()
        for template in self:
            if template.group not in decided and template.matches(frame, offset):
                if not template.passes:
                    return False
                decided.add(template.group)
        every = {template.group for template in self}
        return bool(every) and decided == every and _fills(frame, offset, size)

    def packed(self) -> bytes:
        """Return them for a compiled reader: for each, length, verdict, group, 0, mask and value.

        Mask and value are filled up with zeros to :data:`TEMPLATE_BYTES`, which changes nothing.
        """
        return b"".join(
            bytes((len(each.mask), each.passes, each.group, 0))
            + each.mask.ljust(TEMPLATE_BYTES, b"\0")
            + each.value.ljust(TEMPLATE_BYTES, b"\0")
            for each in self
        )


def _fills(frame: bytes, offset: int, size: int) -> bool:
    """Tell whether a packet of IPv4 or IPv6 ends where its frame does; true for all others."""
    kind = frame[offset + 12 : offset + 14]
    if kind == b"\x08\x00":
        return int.from_bytes(frame[offset + 16 : offset + 18], "big") + 14 == size
    if kind == b"\x86\xdd":
        return int.from_bytes(frame[offset + 18 : offset + 20], "big") + 54 == size
    return True
