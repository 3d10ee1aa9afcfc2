"""Requests about receive ports: allocating, receiving, and what they are to be told of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypervisor import requests
from hypervisor.engine.mail import Inbox, Receiver
from hypervisor.errors import D_READ, InvalidArgument, InvalidOperation
from hypervisor.infos import FrameArrived, Notification, PortInfo
from hypervisor.mach.ports import Task
from hypervisor.mach.receive_ports import ReceivePort
from hypervisor.nic import Handle
from hypervisor.rooms import Rooms

#: Says that a request is held, and where it can be cancelled.
Hold = Callable[[int, Inbox], Any]


class PortAnswers:
    """Answers for one network; ``hold`` notes a held receive, and its result means "later"."""

    def __init__(self, rooms: Rooms, hold: Hold) -> None:
        self._rooms = rooms
        self._ports = rooms.receive_ports
        self._hold = hold
        self.handlers: Mapping[type, Callable[[Any, float], Any]] = {
            requests.AllocatePort: self._allocate,
            requests.DestroyPort: self._destroy,
            requests.SetQlimit: self._set_qlimit,
            requests.MoveMember: self._move,
            requests.RequestNotification: self._notification,
            requests.GetPortStatus: self._status,
            requests.Receive: self._receive,
        }

    def _task(self, request: Any) -> Task[Handle]:
        return self._rooms.tasks.find(request.caller)

    def _allocate(self, request: requests.AllocatePort, now: float) -> bytes:
        return self._ports.allocate(self._task(request), request.qlimit, request.port_set)

    def _destroy(self, request: requests.DestroyPort, now: float) -> None:
        task = self._task(request)
        for name, kind in self._ports.destroy(task, request.port):
            if kind is Notification.FRAME_ARRIVED and name in task.rights:
                task.rights[name].target.open.notify = None
        self._rooms.engine.poll(now)

    def _set_qlimit(self, request: requests.SetQlimit, now: float) -> None:
        port = self._ports.find(self._task(request), request.port)
        self._ports.set_qlimit(port, request.qlimit)

    def _move(self, request: requests.MoveMember, now: float) -> None:
        self._ports.move(self._task(request), request.port, request.port_set)

    def _status(self, request: requests.GetPortStatus, now: float) -> PortInfo:
        return self._ports.info(self._ports.find(self._task(request), request.port))

    def _receive(self, request: requests.Receive, now: float) -> Any:
        task = self._task(request)
        inbox = self._ports.inbox(task, request.port)
        receiver = Receiver(request.request_id, max(1, request.max_messages), task.budget)
        self._rooms.engine.mail.receive(inbox, receiver)
        return self._hold(request.request_id, inbox)

    def _notification(self, request: requests.RequestNotification, now: float) -> None:
        task = self._task(request)
        notify = self._ports.find(task, request.notify) if request.notify else None
        if request.sync and request.kind is not Notification.NO_SENDERS:
            raise InvalidArgument(f"sync is for NO_SENDERS, not for {request.kind.name}")
        if request.kind is Notification.DEAD_NAME:
            self._ports.request_dead_name(task, request.port, notify)
        elif request.kind is Notification.NO_SENDERS:
            port = self._ports.find(task, request.port)
            self._ports.request_no_senders(port, notify, request.sync)
        else:
            right = self._rooms.tasks.right(request.caller, request.port)[1]
            self._about_device(right.target, request.kind, notify)

    def _about_device(self, handle: Handle, kind: Notification, notify: ReceivePort | None) -> None:
        if kind is Notification.FRAME_ARRIVED:
            self._about_frames(handle, notify)
        self._ports.request(handle.port, kind, notify)
        if kind is Notification.DEVICE_STATE and notify is not None:
            self._rooms.tell_state(handle)

    def _about_frames(self, handle: Handle, notify: ReceivePort | None) -> None:
        each = handle.open
        each.notify = None
        if notify is None:
            return
        if not handle.mode & D_READ:
            raise InvalidOperation("this port was opened without D_READ: no frame arrives there")
        message = FrameArrived(notify.name, handle.port)
        each.notify = notify.box, message
        if each.rx and not each.is_link:
            self._rooms.engine.mail.notify(notify.box, message)
