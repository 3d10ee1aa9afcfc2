"""Receive ports in a network without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from hypervisor.infos import Message, NetMessage, Notification, PortInfo
from hypervisor.mach.net_rcv_msg import net_messages
from hypervisor.mach.receive_ports import ReceivePort
from hypervisor.requests import (
    AllocatePort,
    Caller,
    DestroyPort,
    GetPortStatus,
    MoveMember,
    Receive,
    RequestNotification,
    SetQlimit,
)
from tests.helpers.core import Port, World


@dataclass(eq=False)
class Mailer:
    """A receive port or port set, and what its task can do with it."""

    world: World
    caller: Caller
    name: bytes

    def receive(self, most: int = 64) -> int:
        """Submit a receive and return its number."""
        world = self.world
        return world.submit(Receive(world.number(), self.caller, self.name, most))

    def take(self, most: int = 64) -> list[Message]:
        """Receive what is there now, without waiting."""
        number = self.receive(most)
        done = self.world.done.get(number)
        if done is None:
            self.world.cancel(number)
            return []
        if done.error is not None:
            raise done.error
        messages: list[Message] = done.result
        return messages

    def post(self, frame: bytes, payload_bytes: int = 1 << 20) -> bool:
        """Let the network post a frame here, as a filter does."""
        make = partial(net_messages, self.name, payload_bytes)
        posted = self.world.network.engine.mail.post_data(self.port.box, frame, make) is not None
        self.world.network.engine.poll(self.world.now)
        self.world.collect()
        return posted

    @property
    def port(self) -> ReceivePort:
        """The network's own object for this port."""
        network = self.world.network
        return network.receive_ports.find(network.tasks.find(self.caller), self.name)

    def info(self) -> PortInfo:
        """Return the state of the port."""
        info: PortInfo = self.world.call(GetPortStatus(self.world.number(), self.caller, self.name))
        return info

    def set_qlimit(self, qlimit: int) -> None:
        """Change how many messages may wait."""
        self.world.call(SetQlimit(self.world.number(), self.caller, self.name, qlimit))

    def move_to(self, port_set: Mailer | None) -> None:
        """Move the port into a set, or out of any."""
        name = b"" if port_set is None else port_set.name
        self.world.call(MoveMember(self.world.number(), self.caller, self.name, name))

    def hear(self, kind: Notification, about: Port | Mailer | bytes, sync: int = 0) -> None:
        """Ask for notifications about a port to be sent here."""
        if isinstance(about, bytes):
            name = about
        else:
            name = about.port if isinstance(about, Port) else about.name
        number = self.world.number()
        self.world.call(RequestNotification(number, self.caller, name, kind, self.name, sync))

    def destroy(self) -> None:
        """Destroy the port."""
        self.world.call(DestroyPort(self.world.number(), self.caller, self.name))


def mailer(world: World, caller: Caller, qlimit: int = 0, port_set: bool = False) -> Mailer:
    """Allocate a receive port (or a port set) in a task."""
    name: bytes = world.call(AllocatePort(world.number(), caller, qlimit, port_set))
    return Mailer(world, caller, name)


def payloads(messages: list[Message]) -> list[bytes]:
    """Return the payloads of messages, all of which must be frames."""
    assert all(isinstance(each, NetMessage) for each in messages), messages
    return [each.packet[4:] for each in messages if isinstance(each, NetMessage)]
