"""The full guard beside the model: who may send what, who is sent what, and addresses that move."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from hypervisor.mach.policy import DevicePolicy
from hypervisor.requests import Claim, Unclaim
from tests.helpers.core import BROADCAST
from tests.helpers.naive import NaiveDevice, NaiveNetwork, Verdict
from tests.helpers.packets import Sent
from tests.helpers.uplink_actor import UplinkActor

#: From whom and for whom the frames of the machines are, whatever their MAC addresses.
SOURCES, TARGETS = ("10.0.0.1", "fd00::1"), ("10.0.0.2", "fd00::2")
EXPERIMENTAL = b"\x88\xb5"

picks = st.integers(0, 60)


class FullGuard:
    """What the full guard says of the frames of these tests, in the plainest way.

    ``addresses_of`` says what a device has now: whose an address is has tests of its own.
    """

    def __init__(
        self,
        policies: Sequence[DevicePolicy],
        addresses_of: Callable[[NaiveDevice], Sequence[str]],
    ) -> None:
        self._policies = {(each.owner, each.name): each for each in policies}
        self._addresses_of = addresses_of

    def _policy(self, device: NaiveDevice) -> DevicePolicy:
        found = self._policies.get((device.owner, device.name))
        return found or DevicePolicy(device.owner, device.name)

    def _is_full(self, device: NaiveDevice) -> bool:
        lenient = device.uplink or device.trunk
        return not lenient and self._policy(device).guard in (None, "full")

    def judge(self, network: NaiveNetwork, sender: NaiveDevice, sent: Sent) -> str | None:
        """The sender's own guard, then that of whom it is for."""
        if self._is_full(sender):
            if sent.source[0] & 1:
                return "group_source"
            if sent.source != sender.mac:
                return "source_mac"
            kind = sent.plain[0][12:14]
            if kind == EXPERIMENTAL:
                if 0x88B5 not in self._policy(sender).ethertypes:
                    return "ethertype"
            else:
                own, reason = _address(sent, SOURCES)
                if own not in self._addresses_of(sender):
                    return reason
        for each in network.devices:
            if each.mac == sent.destination and self._is_astray(network, each, sent):
                return "not_addressed"
        return None

    def narrow(self, network: NaiveNetwork, sent: Sent, verdict: Verdict) -> None:
        """A packet for one host, in a frame for a group."""
        if not sent.destination[0] & 1:
            return
        others = [each for each in network.devices if self._is_astray(network, each, sent)]
        if not others:
            return
        verdict.flooded = [each for each in verdict.flooded if each.device not in others]
        verdict.devices = [each for each in verdict.devices if each not in others]
        if not verdict.flooded and not any(each.filters for each in verdict.devices if each.up):
            verdict.discard = "not_addressed"

    def _is_astray(self, network: NaiveNetwork, device: NaiveDevice, sent: Sent) -> bool:
        """Whether a device has addresses and a frame is for none of them."""
        if network.mode == "hub" or device.promiscuous or not self._is_full(device):
            return False
        own = self._addresses_of(device)
        if not own or sent.plain[0][12:14] == EXPERIMENTAL:
            return False
        return _address(sent, TARGETS)[0] not in own


def _address(sent: Sent, pair: tuple[str, str]) -> tuple[str, str]:
    """Return which of a pair of addresses a packet has, and how a false one is called."""
    if sent.plain[0][12:14] == b"\x08\x00":
        return pair[0], "source_ipv4"
    return pair[1], "source_ipv6"


class GuardActor(UplinkActor):
    """A network whose guard looks into frames; its devices have addresses, or claim some."""

    guard = "full"
    policies = (
        DevicePolicy("uid:1", "eth0", addresses=SOURCES, ethertypes=(0x88B5,)),
        DevicePolicy("uid:2", "eth0", addresses=TARGETS, ethertypes=(0x88B5,)),
        DevicePolicy("uid:1", "eth1", ethertypes=(0x88B5,)),
        DevicePolicy("uid:2", "eth1", guard="mac"),
        DevicePolicy("uid:3", "eth0", trunk=True),
        DevicePolicy("uid:4", "eth0", ethertypes=(0x88B5,)),
    )

    def start(self, mode: str, ample: bool, isolated: str = "") -> None:
        """Let the model look into frames too."""
        super().start(mode, ample, isolated)

        def addresses_of(device: NaiveDevice) -> Sequence[str]:
            found = self.network.devices.find(device.owner, device.name)
            return () if found is None else self.network.addresses.of_device(found)

        self.model.guard = FullGuard(self.policies, addresses_of)

    @precondition(lambda self: any(each.vnet_header for each in self.links()))
    @rule(
        pick=picks, count=st.integers(1, 3), kind=st.sampled_from(("udp", "tcp4", "tcp6", "uso4"))
    )
    def bring_astray(self, pick: int, count: int, kind: str) -> None:
        """Bring packets for one host in frames for everybody."""
        senders = [each for each in self.links() if each.vnet_header]
        each = senders[pick % len(senders)]
        self.bring(each, self.run(each, BROADCAST, 60, count, kind))

    @precondition(lambda self: self.live)
    @rule(
        pick=picks,
        address=st.sampled_from(("10.0.0.10{}", "fd00::10{}", *SOURCES)),
        gives_up=st.booleans(),
    )
    def claim(self, pick: int, address: str, gives_up: bool) -> None:
        each = self.one(pick)
        outside = any(other.outlet for other in self.live)
        if each.outlet or (outside and not gives_up):
            return
        # Claims that could meet somebody are held while he is asked, which has tests of its own: so
        # each owner claims what is his, and nothing while there are uplinks.
        address = address.format(each.device.owner[-1])
        request = Unclaim if gives_up else Claim
        number = self.world.submit(
            request(self.world.number(), each.port.caller, each.port.port, address)
        )
        error = self.world.done[number].error
        if error is not None:
            assert error.reason in ("D_ALREADY_OPEN", "D_INVALID_OPERATION", "D_NO_MEMORY")
            return
        found = self.network.devices.find(each.device.owner, each.device.name)
        assert found is not None
        has = ipaddress.ip_address(address).compressed in self.network.addresses.of_device(found)
        # What policy gave cannot be given up.
        assert has is not gives_up or address in SOURCES
        self.collect()
