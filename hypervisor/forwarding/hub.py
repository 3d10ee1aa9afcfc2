"""A hub: every frame goes to all other ports, as in the Hurd's eth-multiplexer."""

from __future__ import annotations

from hypervisor.engine.opens import Choice
from hypervisor.forwarding.base import (
    BACK,
    RESERVED,
    Entry,
    Port,
    choose,
    is_reserved,
)


class Hub:
    """Repeats each frame to all. The device that has the destination may hold the sender."""

    mode = "hub"
    grants_promiscuous = True
    capacity = 0

    def __init__(self) -> None:
        self.table: dict[bytes, Port] = {}
        self._ports: dict[Port, bytes] = {}
        self._by_mac: dict[bytes, Port] = {}

    def table_for(self, ingress: Port) -> dict[bytes, Port]:
        """Return the table, which is empty: each frame has more than one receiver."""
        return self.table

    def add(self, port: Port) -> None:
        """Connect a port."""
        self._ports[port] = port.mac
        if not port.uplink:
            self._by_mac[port.mac] = port

    def remove(self, port: Port) -> None:
        """Disconnect a port."""
        self._by_mac.pop(self._ports.pop(port), None)

    def forget(self, port: Port) -> None:
        """A hub has learned nothing."""

    def changed(self, port: Port) -> None:
        """Take notice of a port's new address."""
        self._by_mac.pop(self._ports[port], None)
        self.add(port)

    def learn(self, port: Port, source: bytes, now: float) -> bool:
        """A hub learns nothing; it refuses a source that is another device's own."""
        return self._by_mac.get(source, port) is port

    def forward(self, ingress: Port, destination: bytes, now: float) -> Choice:
        """Choose all other ports."""
        if is_reserved(destination):
            return RESERVED
        addressed = self._by_mac.get(destination)
        if addressed is ingress:
            return BACK
        if addressed is not None and not ingress.stance.meets(addressed.stance):
            addressed = None
        others = [port for port in self._ports if port is not addressed]
        return choose(ingress, addressed, others)

    def find_learned(self, ingress: Port, destination: bytes, now: float) -> None:
        """A hub has learned nothing."""

    def has_lately_learned(self, port: Port, source: bytes, now: float) -> bool:
        """A hub has learned nothing."""
        return False

    def entries(self, now: float) -> list[Entry]:
        """Return the devices' own addresses: all that a hub knows."""
        return [Entry(mac, port, None) for mac, port in self._by_mac.items()]
