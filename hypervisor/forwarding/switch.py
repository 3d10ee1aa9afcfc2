"""A switch: frames go where their destination is, and group frames to all."""

from __future__ import annotations

from hypervisor.engine.opens import Choice
from hypervisor.forwarding.base import (
    APART,
    BACK,
    RESERVED,
    Entry,
    Port,
    choose,
    flood,
    is_reserved,
)
from hypervisor.forwarding.fdb import Fdb


class Switch:
    """Forwards by static entries (the devices' own addresses) and by learned ones.

    While a device is promiscuous ``table`` is empty, so that every frame is looked at.
    """

    mode = "switch"
    grants_promiscuous = False

    def __init__(self, fdb: Fdb | None = None) -> None:
        self.fdb = fdb or Fdb()
        self.capacity = self.fdb.capacity
        self.table: dict[bytes, Port] = {}
        self._static: dict[bytes, Port] = {}
        #: Every port, with the address that its static entry was made for.
        self._ports: dict[Port, bytes] = {}
        self._nosy: dict[Port, None] = {}
        self._unknown_to: dict[Port, None] = {}

    def add(self, port: Port) -> None:
        """Connect a port; its own address becomes a static entry and wins over a learned one."""
        self._ports[port] = port.mac
        if port.uplink:
            self._unknown_to[port] = None
            return
        self._static[port.mac] = port
        self.changed(port)

    def remove(self, port: Port) -> None:
        """Disconnect a port and forget what was learned behind it."""
        mac = self._ports.pop(port)
        self._unknown_to.pop(port, None)
        if not port.uplink:
            del self._static[mac]
            self.table.pop(mac, None)
            self._set_nosy(port, False)
        self.fdb.forget_port(port)

    def forget(self, port: Port) -> None:
        """Forget what was learned behind a port."""
        self.fdb.forget_port(port)

    def changed(self, port: Port) -> None:
        """Take notice of a device's new address or flags; an uplink has neither."""
        old = self._ports[port]
        if old != port.mac:
            del self._static[old]
            self.table.pop(old, None)
            self._ports[port] = port.mac
            self._static[port.mac] = port
        self.fdb.forget(port.mac)
        if port.promiscuous or port.learns:
            self._unknown_to[port] = None
        else:
            self._unknown_to.pop(port, None)
        self._set_nosy(port, port.promiscuous)
        if not self._nosy:
            self.table[port.mac] = port

    def _set_nosy(self, port: Port, nosy: bool) -> None:
        """Empty the table when the first port becomes promiscuous; fill it after the last.

        The engine keeps the dict itself, so it is changed in place.
        """
        was = bool(self._nosy)
        if nosy:
            self._nosy[port] = None
        else:
            self._nosy.pop(port, None)
        if self._nosy:
            self.table.clear()
        elif was:
            self.table.update(self._static)

    def learn(self, port: Port, source: bytes, now: float) -> bool:
        """Learn a unicast source behind a trunk. A device's own address is never learned
        elsewhere: that is refused.
        """
        owner = self._static.get(source)
        if owner is not None:
            return owner is port
        self.fdb.learn(source, port, now)
        return True

    def forward(self, ingress: Port, destination: bytes, now: float) -> Choice:
        """Choose the receivers of a frame."""
        if destination[0] & 1:
            return RESERVED if is_reserved(destination) else flood(self._ports, ingress)
        port = self._static.get(destination) or self.fdb.find(destination, now)
        if port is ingress:
            return BACK
        if port is not None and port.uplink and ingress.uplink:
            return APART
        if port is None:
            return flood(self._unknown_to, ingress)
        others = flood((each for each in self._nosy if each is not port), ingress)
        if not others.flooded and not others.taps:
            return port.choice
        return choose(port.receivers, others.flooded, (*port.taps, *others.taps))

    def entries(self, now: float) -> list[Entry]:
        """Return static entries, then learned ones."""
        static = [Entry(mac, port, None) for mac, port in self._static.items()]
        learned = [Entry(mac, each.port, now - each.seen) for mac, each in self.fdb.items(now)]
        return static + learned
