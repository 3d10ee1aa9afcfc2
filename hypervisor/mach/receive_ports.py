"""Receive ports, port sets and notifications: what mach_port_* routines say, without a kernel.

A receive port is a bounded queue that a task can receive from; the queue itself is a
:class:`hypervisor.engine.mail.Mailbox`. Who may send to it holds a *send right*: here that is
always a part of the server, a filter of a device for instance. When the port dies, each holder
is told at once, so that a dead port takes its filters along.

As in Mach, one notification of a kind can be requested for a port. Dead-name and no-senders
notifications come once; FRAME_ARRIVED and DEVICE_STATE, our own, come until they are withdrawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hypervisor.engine.mail import Inbox, Mail, Mailbox
from hypervisor.errors import InvalidArgument, InvalidDest, InvalidValue, NoMemory
from hypervisor.infos import DeadName, NoSenders, Notification, PortInfo
from hypervisor.mach.ports import PORT_BYTES, Task

#: MACH_PORT_QLIMIT_DEFAULT and MACH_PORT_QLIMIT_MAX of GNU Mach, and the most here.
QLIMIT_DEFAULT: Final = 5
QLIMIT_MACH_MAX: Final = 16
QLIMIT_MAX: Final = 4_096
#: Receive ports and port sets.
PORTS_PER_OWNER: Final = 1_024
PORTS: Final = 16_384


class ReceivePort:
    """One receive port of a task. Compared and hashed by identity."""

    __slots__ = ("box", "make_sends", "name", "port_set", "requests", "senders", "task")

    def __init__(self, task: Task[Any], box: Mailbox) -> None:
        self.name = box.name
        self.task = task
        self.box = box
        self.port_set: PortSet | None = None
        #: Who holds a send right, and what to call when the port dies.
        self.senders: dict[object, Callable[[], None]] = {}
        self.make_sends = 0
        #: Notifications that were requested to be sent here: (name of the port, kind).
        self.requests: dict[tuple[bytes, Notification], None] = {}


class PortSet:
    """Several receive ports that are received from as one."""

    __slots__ = ("inbox", "members", "name", "task")

    def __init__(self, task: Task[Any], name: bytes) -> None:
        self.name = name
        self.task = task
        self.inbox = Inbox()
        self.members: dict[ReceivePort, None] = {}


class ReceivePorts:
    """All receive ports and port sets of a network. ``random_bytes`` gives unguessable names."""

    def __init__(self, mail: Mail, random_bytes: Callable[[int], bytes]) -> None:
        self._mail = mail
        self._random_bytes = random_bytes
        self._ports: dict[bytes, ReceivePort | PortSet] = {}
        self._per_owner: dict[str, int] = {}
        self._requested: dict[tuple[bytes, Notification], ReceivePort] = {}

    def __len__(self) -> int:
        return len(self._ports)

    # --- ports and sets -----------------------------------------------------------------------

    def allocate(self, task: Task[Any], qlimit: int, port_set: bool) -> bytes:
        """Make a receive port or a port set of ``task``; returns its name.

        Raises InvalidValue for an impossible ``qlimit``, InvalidArgument for one of a set,
        NoMemory at a quota.
        """
        if port_set and qlimit:
            raise InvalidArgument("a port set has no qlimit: its members have")
        if not port_set:
            qlimit = check_qlimit(qlimit or QLIMIT_DEFAULT)
        count = self._per_owner.get(task.owner, 0)
        if count >= PORTS_PER_OWNER:
            raise NoMemory(f"owner {task.owner} has {count} receive ports; destroy one first")
        if len(self._ports) >= PORTS:
            raise NoMemory(f"this network has {PORTS} receive ports already; try again later")
        name = self._random_bytes(PORT_BYTES)
        if port_set:
            self._ports[name] = PortSet(task, name)
        else:
            self._ports[name] = ReceivePort(task, self._mail.open(name, task.owner, qlimit))
        self._per_owner[task.owner] = count + 1
        task.receive_ports[name] = None
        return name

    def find(self, task: Task[Any], name: bytes) -> ReceivePort:
        """Return a receive port of ``task``.

        Raises InvalidDest if it is dead, unknown or another task's, InvalidArgument for a set.
        """
        found = self._own(task, name)
        if isinstance(found, PortSet):
            raise InvalidArgument("this is a port set; name a receive port")
        return found

    def inbox(self, task: Task[Any], name: bytes) -> Inbox:
        """Return where messages of a receive port or port set of ``task`` are taken.

        Raises InvalidDest, or InvalidArgument for a port that is in a set.
        """
        found = self._own(task, name)
        if isinstance(found, PortSet):
            return found.inbox
        if found.port_set is not None:
            raise InvalidArgument("this port is in a port set: receive from the set")
        return found.box.inbox

    def _own(self, task: Task[Any], name: bytes) -> ReceivePort | PortSet:
        found = self._ports.get(name)
        if found is None or found.task is not task:
            raise InvalidDest(
                "no such receive port of this task: it was destroyed, never allocated, or is "
                "another's; allocate one with PortAllocate"
            )
        return found

    def destroy(self, task: Task[Any], name: bytes) -> list[tuple[bytes, Notification]]:
        """Destroy a receive port or set; again is a success. Raises InvalidDest.

        Returns the notifications that were requested to be sent to it and are withdrawn.
        """
        if name in task.closed and name not in self._ports:
            return []
        withdrawn = self._remove(self._own(task, name), InvalidDest("this port was destroyed"))
        task.closed.append(name)
        return withdrawn

    def end(self, task: Task[Any], why: InvalidDest) -> None:
        """The task is dead: so are its receive ports."""
        for name in list(task.receive_ports):
            self._remove(self._ports[name], why)

    def _remove(
        self, dead: ReceivePort | PortSet, why: InvalidDest
    ) -> list[tuple[bytes, Notification]]:
        del self._ports[dead.name]
        del dead.task.receive_ports[dead.name]
        left = self._per_owner[dead.task.owner] - 1
        if left:
            self._per_owner[dead.task.owner] = left
        else:
            del self._per_owner[dead.task.owner]
        if isinstance(dead, PortSet):
            for member in dead.members:
                member.port_set = None
            self._mail.dissolve(dead.inbox, why)
            self.died(dead.name)
            return []
        withdrawn = list(dead.requests)
        for key in withdrawn:
            del self._requested[key]
        dead.requests.clear()
        senders = list(dead.senders.values())
        dead.senders.clear()
        for dies in senders:
            dies()
        if dead.port_set is not None:
            del dead.port_set.members[dead]
        self._mail.close(dead.box, why)
        self.died(dead.name)
        return withdrawn

    def set_qlimit(self, port: ReceivePort, qlimit: int) -> None:
        """Change how many messages may wait; those that wait already stay. Raises InvalidValue."""
        port.box.qlimit = check_qlimit(qlimit)

    def move(self, task: Task[Any], name: bytes, set_name: bytes) -> None:
        """Move a receive port into a set, or out of any if ``set_name`` is empty.

        Raises InvalidDest, and InvalidArgument if the names are not of a port and a set.
        """
        port = self.find(task, name)
        target: PortSet | None = None
        if set_name:
            found = self._own(task, set_name)
            if not isinstance(found, PortSet):
                raise InvalidArgument("the second port is no port set; allocate one")
            target = found
        if target is port.port_set:
            return
        if port.port_set is not None:
            del port.port_set.members[port]
        port.port_set = target
        inbox = Inbox()
        if target is not None:
            target.members[port] = None
            inbox = target.inbox
        self._mail.move(port.box, inbox, InvalidDest("this port was moved into a port set"))

    def info(self, port: ReceivePort) -> PortInfo:
        """Return the state and counters of a port."""
        box = port.box
        return PortInfo(
            qlimit=box.qlimit,
            queued=box.posted + box.notes,
            delivered=box.delivered,
            drops=dict(box.drops),
            senders=len(port.senders),
            make_sends=port.make_sends,
            port_set=b"" if port.port_set is None else port.port_set.name,
        )

    # --- send rights --------------------------------------------------------------------------

    def make_send(self, port: ReceivePort, holder: object, dies: Callable[[], None]) -> None:
        """Give ``holder`` a send right; ``dies`` is called once if the port dies meanwhile.

        A holder has one right for a port, however often it is made.
        """
        if holder not in port.senders:
            port.make_sends += 1
        port.senders[holder] = dies

    def drop_send(self, port: ReceivePort, holder: object) -> None:
        """``holder`` gives its send right back; the last one is told to who asked."""
        if port.senders.pop(holder, None) is None or port.senders:
            return
        self._tell_no_senders(port)

    def _tell_no_senders(self, port: ReceivePort) -> None:
        notify = self._forget((port.name, Notification.NO_SENDERS))
        if notify is not None:
            message = NoSenders(notify.name, port.name, port.make_sends)
            self._mail.notify(notify.box, message)

    # --- notifications ------------------------------------------------------------------------

    def request(self, name: bytes, kind: Notification, notify: ReceivePort | None) -> None:
        """Send notifications of ``kind`` about port ``name`` to ``notify`` from now on.

        Replaces what was requested before; None withdraws it.
        """
        key = (name, kind)
        self._forget(key)
        if notify is not None:
            self._requested[key] = notify
            notify.requests[key] = None

    def request_no_senders(self, port: ReceivePort, notify: ReceivePort | None, sync: int) -> None:
        """The same for NO_SENDERS: it comes at once if there is no sender, and were ``sync``."""
        self.request(port.name, Notification.NO_SENDERS, notify)
        if not port.senders and port.make_sends >= sync:
            self._tell_no_senders(port)

    def request_dead_name(self, task: Task[Any], name: bytes, notify: ReceivePort | None) -> None:
        """The same for DEAD_NAME: it comes at once if the port has died already.

        Raises InvalidDest if ``name`` is neither a port of ``task`` nor was one.
        """
        dead = name in task.closed and name not in self._ports
        if not dead and name not in task.rights:
            self._own(task, name)
        if dead and notify is not None:
            self._mail.notify(notify.box, DeadName(notify.name, name))
        elif not dead:
            self.request(name, Notification.DEAD_NAME, notify)

    def requested(self, name: bytes, kind: Notification) -> ReceivePort | None:
        """Return the port that notifications of ``kind`` about port ``name`` go to."""
        return self._requested.get((name, kind))

    def died(self, name: bytes) -> None:
        """A port is dead: tell who asked, and forget all other requests about it."""
        notify = self._forget((name, Notification.DEAD_NAME))
        if notify is not None:
            self._mail.notify(notify.box, DeadName(notify.name, name))
        for kind in Notification:
            self._forget((name, kind))

    def _forget(self, key: tuple[bytes, Notification]) -> ReceivePort | None:
        notify = self._requested.pop(key, None)
        if notify is not None:
            del notify.requests[key]
        return notify


def check_qlimit(qlimit: int) -> int:
    """Return ``qlimit``. Raises InvalidValue unless it is 1 to 4,096."""
    if not 1 <= qlimit <= QLIMIT_MAX:
        raise InvalidValue(f"a port queues 1 to {QLIMIT_MAX} messages, not {qlimit}")
    return qlimit
