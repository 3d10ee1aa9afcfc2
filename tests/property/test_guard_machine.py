"""A guarded network keeps every promise of a network, and every frame gets the verdict it must get.

The machine of :mod:`tests.property.test_network_machine` again, under the full guard: devices with
addresses from policy, others that claim some and give them up, presets of their own, trunks and
uplinks. The naive model says in a few lines what the guard must say of each frame, by whatever way
it comes, and who must not be sent what is flooded.
"""

from __future__ import annotations

from tests.helpers.guard_actor import GuardActor
from tests.property.test_network_machine import NetworkRules, thorough


class GuardMachine(GuardActor, NetworkRules):
    """A network under the full guard."""


TestGuard = GuardMachine.TestCase
TestGuard.settings = thorough(40)
