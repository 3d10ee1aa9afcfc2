"""A guarded network keeps every promise of a network, and every frame gets the verdict it must get.

The machine of :mod:`tests.property.test_network_machine` again, under the full guard: devices with
addresses from policy, others that claim some and give them up, presets of their own, trunks and
uplinks. The naive model says in a few lines what the guard must say of each frame, by whatever way
it comes, and who must not be sent what is flooded.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from hypervisor.errors import D_READ, D_WRITE
from hypervisor.requests import Role
from tests.helpers.guard_actor import GuardActor
from tests.helpers.naive import NaiveOpen
from tests.property.test_network_machine import MAX_OPENS, NetworkRules, thorough

#: Who has addresses that frames here are for, and others (see GuardActor); who nobody looks into.
MEANT, OTHER, MAC, TRUNK = (2, 0), (1, 0), (2, 1), (3, 0)


class GuardMachine(GuardActor, NetworkRules):
    """A network under the full guard."""

    @precondition(lambda self: len(self.live) + 2 <= MAX_OPENS)
    @rule(
        sender=st.sampled_from((MAC, TRUNK)),
        receiver=st.sampled_from((MEANT, MEANT, OTHER)),
        count=st.integers(1, 5),
        kind=st.sampled_from(("plain", "udp", "tcp4", "tcp6")),
    )
    def send_what_nobody_looks_into(
        self, sender: tuple[int, int], receiver: tuple[int, int], count: int, kind: str
    ) -> None:
        """A flow from a device without a full guard, toward one with an address list."""
        each, to = self.stack_of(*sender), self.stack_of(*receiver)
        if each is None or to is None:
            return
        self.links_drain()
        for sent in self.run(each, to.device.mac, 60, count, kind):
            self.bring_one(each, sent if sent.header_bytes else sent.behind_header())

    def stack_of(self, owner: int, name: int) -> NaiveOpen | None:
        """Have a device be one open with a link of large frames; None if that cannot be."""
        who = (f"uid:{owner}", f"eth{name}")
        mine = [each for each in self.live if (each.device.owner, each.device.name) == who]
        for each in mine[1:]:
            self.close(self.live.index(each))
        if not mine:
            self.open(owner, name, D_READ | D_WRITE, Role.PLAIN, False, None)
        each = mine[0] if mine else self.live[-1]
        if not each.link:
            self.attach(self.live.index(each), True, 7, True)
        return each if each.link and each.vnet_header else None


TestGuard = GuardMachine.TestCase
TestGuard.settings = thorough(40)
