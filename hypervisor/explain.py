"""`hypervisor policy explain`: what the guard says of frames, and why, without a server.

The guard is made by the very code that serves, from the same configuration. A device's claims are
known to a running server only: what it has claimed is told by ``addresses``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hypervisor.config import ServerConfig
from hypervisor.errors import DeviceError
from hypervisor.guard import Guard
from hypervisor.mach.devices import Device
from hypervisor.serve.compose import make_network
from hypervisor.wire.summary import summary


class ExplainError(Exception):
    """The question cannot be answered; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Question:
    """Whose frames are to be judged.

    ``owner`` is written as the server writes owners ("uid:1000"); ``mac`` is None for the one that
    policy gives; ``addresses`` are what the device has claimed, beside what policy gives it.
    """

    network: str
    owner: str
    device: str
    mac: bytes | None = None
    addresses: tuple[str, ...] = ()


def guard_of(config: ServerConfig, question: Question) -> Guard:
    """Return the guard of the device in question. Raises ExplainError."""
    found = next((one for one in config.networks if one.name == question.network), None)
    if found is None:
        names = ", ".join(one.name for one in config.networks)
        raise ExplainError(f'there is no network "{question.network}"; there are: {names}')
    network = make_network(found, config.devices, bytes(32), config.gateways)
    policy = network.devices.policy(question.owner, question.device)
    mac = question.mac or policy.mac
    if mac is None:
        raise ExplainError(
            f"no policy gives {question.device} of {question.owner} a MAC address; "
            "add --mac with the one that `hypervisor devices` shows"
        )
    device = Device(question.owner, question.device, mac, policy)
    try:
        for address in question.addresses:
            network.addresses.claim(device, address, 0.0)
    except DeviceError as error:
        raise ExplainError(f"--address {address}: {error.message}") from error
    return network.screens.make_guard(device)


def explain(guard: Guard, frames: Iterable[bytes]) -> Iterator[tuple[bool, str]]:
    """Yield for each frame whether it passes, and a line that says which rule decided and why."""
    policy = guard.policy
    rule = "full guard" if policy.full else "trunk" if policy.trunk else f"guard {policy.preset}"
    for number, frame in enumerate(frames, start=1):
        verdict = guard.judge(frame)
        if verdict is None:
            common = guard.full and guard.common(frame, 0, len(frame), {})
            why = f"passes ({rule}{': one of its common frames' if common else ''})"
        else:
            why = f"discarded ({rule}), {verdict}"
        yield verdict is None, f"{number}: {why}\n   {summary(frame)}"
