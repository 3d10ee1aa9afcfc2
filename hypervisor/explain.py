"""`hypervisor policy explain`: what the guard says of frames, and why, without a server.

The guard is made by the very code that serves, from the same configuration. A device's claims are
known to a running server only: what it has claimed is told by ``addresses``. Which table decides is
found by trying: a setting decides about a frame if the guard would say otherwise without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hypervisor.config import ServerConfig
from hypervisor.errors import DeviceError
from hypervisor.guard import Guard, Verdict, VlanGate
from hypervisor.mach.devices import Device
from hypervisor.mach.policy import DevicePolicy, Identity, Rule
from hypervisor.network import Network
from hypervisor.serve.compose import make_network
from hypervisor.wire.summary import summary

#: Written of one device, and known to the guard by another way.
_ITS_OWN = frozenset({"mac", "addresses"})


class ExplainError(Exception):
    """The question cannot be answered; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Question:
    """Whose frames are to be judged.

    ``owner`` is written as the server writes owners ("uid:1000"), and comes by ``node`` with
    ``groups``; ``mac`` is None for the one that policy gives; ``addresses`` are what the device has
    claimed, beside what policy gives it.
    """

    network: str
    owner: str
    device: str
    mac: bytes | None = None
    addresses: tuple[str, ...] = ()
    groups: frozenset[int] = frozenset()
    node: str = ""


class Explainer:
    """Judges the frames of one device as the server would. Raises ExplainError."""

    def __init__(self, config: ServerConfig, question: Question) -> None:
        network = _network(config, question.network)
        who = Identity(question.owner, question.groups, question.node)
        self._deciding: Mapping[str, Rule] = network.devices.book.deciding(who, question.device)
        policy = network.devices.policy(who, question.device)
        mac = question.mac or policy.mac
        if mac is None:
            raise ExplainError(
                f"no policy gives {question.device} of {question.owner} a MAC address; "
                "add --mac with the one that `hypervisor devices` shows"
            )
        device = Device(question.owner, question.device, mac, policy, who)
        try:
            for address in question.addresses:
                network.addresses.claim(device, address, 0.0)
        except DeviceError as error:
            raise ExplainError(f"--address {address}: {error.message}") from error
        self._name = f"{question.device} of {question.owner} on {network.name}"
        self._policy = policy
        self.guard = network.screens.make_guard(device)
        self._gate = VlanGate.of(policy.vlan, policy.vlans)
        #: What would be judged without one setting each.
        self._without: dict[str, tuple[VlanGate | None, Guard]] = {}
        for key in sorted(self._deciding.keys() - _ITS_OWN):
            device.policy = dataclasses.replace(policy, **{key: _DEFAULTS[key]})
            gate = VlanGate.of(device.policy.vlan, device.policy.vlans)
            self._without[key] = (gate, network.screens.make_guard(device))

    def policy(self) -> Iterator[str]:
        """Yield lines that say which table decides each setting of the device; none, none."""
        if self._deciding:
            yield f"policy of {self._name}:"
        for key, rule in sorted(self._deciding.items()):
            value = _shown(getattr(self._policy, key))
            yield f"   {key} = {value}   {rule.where} ({rule.selectors})"

    def frames(self, frames: Iterable[bytes]) -> Iterator[tuple[bool, str]]:
        """Yield for each frame whether it passes, and lines that say what decided and why."""
        guard = self.guard
        name = "trunk" if guard.policy.trunk else f"guard {guard.policy.preset}"
        rule = "full guard" if guard.full else name
        for number, frame in enumerate(frames, start=1):
            verdict = _judge(self._gate, guard, frame)
            if verdict is None:
                bare = self._gate.bare(frame, 0) if self._gate else frame
                common = guard.full and guard.common(bare, 0, len(bare), {})
                why = f"passes ({rule}{': one of its common frames' if common else ''})"
            else:
                why = f"discarded ({rule}), {verdict}"
            decisive = "".join(
                f"\n   by {key} = {_shown(getattr(self._policy, key))} at {rule_.where}"
                for key, rule_ in sorted(self._deciding.items())
                if key in self._without
                and (_judge(*self._without[key], frame) is None) is not (verdict is None)
            )
            yield verdict is None, f"{number}: {why}{decisive}\n   {summary(frame)}"


def _judge(gate: VlanGate | None, guard: Guard, frame: bytes) -> Verdict:
    """Judge a frame as the server does: its VLAN tag first, and then what is behind it."""
    if gate is None:
        return guard.judge(frame)
    return gate.judge(frame, 0) or guard.judge(gate.bare(frame, 0))


def in_order(config: ServerConfig) -> Iterator[str]:
    """Yield a line for each table of policy of each network, the most specific first."""
    for one in config.networks:
        network = make_network(one, config.policies, bytes(32), config.gateways)
        yield f"{one.name}:"
        for rule in network.devices.book.rules:
            settings = ", ".join(f"{key} = {_shown(each)}" for key, each in rule.settings.items())
            yield f"   {rule.selectors}: {settings or 'nothing'}   {rule.where}"
        yield f"   all else: guard = {one.guard}"


_DEFAULTS: Mapping[str, Any] = {
    each.name: each.default for each in dataclasses.fields(DevicePolicy)
}


def _network(config: ServerConfig, name: str) -> Network:
    found = next((one for one in config.networks if one.name == name), None)
    if found is None:
        names = ", ".join(one.name for one in config.networks)
        raise ExplainError(f'there is no network "{name}"; there are: {names}')
    return make_network(found, config.policies, bytes(32), config.gateways)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return value.hex(":")
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "none"
    return str(value)
