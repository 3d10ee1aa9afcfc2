"""A switch: frames go where their destination is, and group frames to all."""

from __future__ import annotations

from hypervisor.engine.opens import Choice
from hypervisor.forwarding.base import (
    APART,
    BACK,
    FENCED,
    RESERVED,
    Entry,
    Port,
    Stance,
    choose,
    is_reserved,
)
from hypervisor.forwarding.fdb import Fdb


class Switch:
    """Forwards by static entries (the devices' own addresses, and policy's) and by learned ones.

    A table has the static entries of those ports whose ``choice`` is all there is to say, and that
    may be met: there is one for each stance of whoever sends. While a device is promiscuous they
    are empty, so that every frame is looked at.
    """

    mode = "switch"
    grants_promiscuous = False

    def __init__(self, fdb: Fdb | None = None) -> None:
        self.fdb = fdb or Fdb()
        self.capacity = self.fdb.capacity
        self._tables: dict[Stance, dict[bytes, Port]] = {stance: {} for stance in Stance}
        self.table = self._tables[Stance.PLAIN]
        self._static: dict[bytes, Port] = {}
        #: Every port, with the static entries that were made for it.
        self._ports: dict[Port, tuple[bytes, ...]] = {}
        self._nosy: dict[Port, None] = {}
        self._unknown_to: dict[Port, None] = {}

    def table_for(self, ingress: Port) -> dict[bytes, Port]:
        """Return the table for those of the stance of ``ingress``."""
        return self._tables[ingress.stance]

    def add(self, port: Port) -> None:
        """Connect a port; its own address becomes a static entry and wins over a learned one."""
        self._ports[port] = ()
        self.changed(port)

    def remove(self, port: Port) -> None:
        """Disconnect a port and forget what was learned behind it."""
        self._unpin(port)
        del self._ports[port]
        self._unknown_to.pop(port, None)
        self._set_nosy(port, False)
        self.fdb.forget_port(port)

    def forget(self, port: Port) -> None:
        """Forget what was learned behind a port."""
        self.fdb.forget_port(port)

    def changed(self, port: Port) -> None:
        """Take notice of a port's new address or flags."""
        self._unpin(port)
        self._pin(port)
        if port.promiscuous or port.learns:
            self._unknown_to[port] = None
        else:
            self._unknown_to.pop(port, None)
        self._set_nosy(port, port.promiscuous)

    def _pin(self, port: Port) -> None:
        """Make the static entries of a port: its own address, and those that policy put there.

        A device's own address wins over whatever else is said of it.
        """
        own = () if port.uplink else (port.mac,)
        others = [mac for mac in port.learning.static if mac not in self._static]
        for mac in (*own, *others):
            self._static[mac] = port
            self.fdb.forget(mac)
            if not self._nosy:
                self._enter(mac, port)
        self._ports[port] = (*own, *others)

    def _enter(self, mac: bytes, port: Port) -> None:
        """Let one look-up find a port, for those who meet it."""
        if port.is_short:
            for stance, table in self._tables.items():
                if stance.meets(port.stance):
                    table[mac] = port

    def _unpin(self, port: Port) -> None:
        for mac in self._ports[port]:
            if self._static.get(mac) is port:
                del self._static[mac]
                for table in self._tables.values():
                    table.pop(mac, None)

    def _set_nosy(self, port: Port, nosy: bool) -> None:
        """Empty the table when the first port becomes promiscuous; fill it after the last.

        Whoever looks things up in it keeps the dict itself, so it is changed in place.
        """
        was = bool(self._nosy)
        if nosy:
            self._nosy[port] = None
        else:
            self._nosy.pop(port, None)
        if self._nosy:
            for table in self._tables.values():
                table.clear()
        elif was:
            for mac, each in self._static.items():
                self._enter(mac, each)

    def learn(self, port: Port, source: bytes, now: float) -> bool:
        """Learn a unicast source behind a trunk.

        What is a device's own, or pinned to another port, is never learned elsewhere: that is
        refused.
        """
        owner = self._static.get(source)
        if owner is not None:
            return owner is port
        return self.fdb.learn(source, port, now)

    def forward(self, ingress: Port, destination: bytes, now: float) -> Choice:
        """Choose the receivers of a frame."""
        if destination[0] & 1:
            if is_reserved(destination):
                return RESERVED
            return choose(ingress, None, self._ports)
        port = self._static.get(destination) or self.fdb.find(destination, now)
        if port is ingress:
            return BACK
        if port is None:
            return choose(ingress, None, self._unknown_to)
        if port.uplink and ingress.uplink:
            return APART
        if not ingress.stance.meets(port.stance):
            return FENCED
        return choose(ingress, port, [each for each in self._nosy if each is not port])

    def find_learned(self, ingress: Port, destination: bytes, now: float) -> Port | None:
        """Return where a learned destination is, if no more than a look-up is needed for it."""
        port = None if self._nosy or destination[0] & 1 else self.fdb.find(destination, now)
        if (
            port is None
            or port is ingress
            or not port.is_short
            or (port.uplink and ingress.uplink)
            or not ingress.stance.meets(port.stance)
        ):
            return None
        return port

    def has_lately_learned(self, port: Port, source: bytes, now: float) -> bool:
        """Tell whether ``source`` was seen behind ``port`` a moment ago, or is pinned there."""
        owner = self._static.get(source)
        if owner is not None:
            return owner is port
        return self.fdb.was_seen_lately(source, port, now)

    def entries(self, now: float) -> list[Entry]:
        """Return static entries, then learned ones."""
        static = [Entry(mac, port, None) for mac, port in self._static.items()]
        learned = [Entry(mac, each.port, now - each.seen) for mac, each in self.fdb.items(now)]
        return static + learned
