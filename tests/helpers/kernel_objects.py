"""Real kernel objects for tests: namespaces, TAPs inside them, processes of other uids.

Everything happens in forked children that die with the test process (parent death signal) and at
the end of their ``with`` block, so nothing is left behind; closures can be run inside, since a fork
needs no pickling of what goes in (what comes out is pickled). Works as root and as ordinary user.

Tests that fork here may have threads: a forked child has one, and namespaces need exactly that.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Protocol, TypeVar

from hypervisor.kernel import namespaces, netlink, process, scm, tap

T = TypeVar("T")

#: Frames of this EtherType (IEEE 802 local experimental 1) mean nothing to any stack.
EXPERIMENTAL = 0x88B5
BROADCAST = b"\xff" * 6

#: Of each part of all tests its own, since parts run at the same time (tests.__main__).
_UIDS = itertools.count(20_000 + 4_000 * int(os.environ.get("TESTS_PART", "0")))
_ACKNOWLEDGED = b"."


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class ChildFailed(AssertionError):
    """What ran in the child raised; the message is its traceback."""


def a_fresh_uid() -> int:
    """Return an ordinary uid that no other test uses; this process's own if it is not root."""
    return next(_UIDS) if os.geteuid() == 0 else os.geteuid()


def as_uid(uid: int, function: Callable[[], T]) -> T:
    """Run ``function`` in a forked child that has become ``uid``, and return its result."""

    def inside() -> T:
        _become(uid)
        return function()

    return in_child(inside)


def in_child(function: Callable[[], T]) -> T:
    """Run ``function`` in a forked child and return its result.

    An exception there is :class:`ChildFailed` here, with the child's traceback.
    """
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as answers, os.fdopen(writer, "wb") as output:

        def report() -> None:
            try:
                outcome: tuple[bool, object] = (True, function())
            except BaseException:
                outcome = (False, traceback.format_exc())
            pickle.dump(outcome, output)
            output.flush()

        with _child(report):
            output.close()
            answer = answers.read()
    if not answer:
        raise ChildFailed("the child ended without an answer")
    succeeded, value = pickle.loads(answer)
    if not succeeded:
        raise ChildFailed(value)
    return value  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Namespace:
    """A user and network namespace, kept by a child that does nothing else."""

    pid: int
    uid: int

    def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` inside, as root of the namespace, and return its result."""

        def inside() -> T:
            self._enter()
            return function()

        return in_child(inside)

    def descriptor(self, function: Callable[[], int]) -> int:
        """Run ``function`` inside and return a copy of the descriptor that it returned."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.call(lambda: scm.send(theirs, _ACKNOWLEDGED, [function()]))
            _, fds = scm.receive(ours)
        return fds[0]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return what it said; with ``check`` it must succeed."""
        done = self.call(lambda: subprocess.run(command, capture_output=True, text=True))
        if check and done.returncode != 0:
            raise ChildFailed(f"{' '.join(command)}: exit {done.returncode}: {done.stderr}")
        return done

    @contextmanager
    def running(self, function: Callable[[], object]) -> Iterator[int]:
        """Run ``function`` inside while the ``with`` block lasts; yields its pid."""

        def inside() -> None:
            self._enter()
            function()

        with _child(inside) as pid:
            yield pid

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        # Both are opened before either is entered: inside, this process may not look at the other.
        with ExitStack() as stack:
            spaces = [
                stack.enter_context(open(f"/proc/{self.pid}/ns/{kind}")) for kind in ("user", "net")
            ]
            for space in spaces:
                if libc.setns(space.fileno(), 0) != 0:
                    raise OSError(ctypes.get_errno(), f"setns {space.name}")
        # The machine's root is nobody inside: an exec would lose the capabilities just gained.
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


@contextmanager
def namespace(uid: int | None = None) -> Iterator[Namespace]:
    """Make a user and network namespace of ``uid`` (default: a fresh one) with lo up."""
    owner = a_fresh_uid() if uid is None else uid
    ours, theirs = socket.socketpair()

    def hold() -> None:
        _become(owner)
        namespaces.unshare_user_net()
        with netlink.Netlink() as net:
            net.set_up("lo")
        theirs.sendall(_ACKNOWLEDGED)
        signal.pause()

    with ours, theirs, _child(hold, on_error=theirs) as pid:
        answer = ours.recv(1 << 16)
        if answer != _ACKNOWLEDGED:
            raise ChildFailed(answer.decode())
        yield Namespace(pid, owner)


@dataclass(slots=True)
class Lent:
    """A TAP in a namespace: ``fd`` is the only descriptor; the namespace's child holds none."""

    namespace: Namespace
    fd: int
    name: str
    mac: bytes
    given: bool = False

    def give(self) -> int:
        """Return the descriptor for another to own and close."""
        self.given = True
        return self.fd

    def packet_socket(self) -> socket.socket:
        """Return an AF_PACKET socket bound to the interface: the far side of the link."""

        def make() -> int:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EXPERIMENTAL))
            sock.bind((self.name, EXPERIMENTAL))
            return sock.detach()

        return socket.socket(fileno=self.namespace.descriptor(make))


@contextmanager
def lent_tap(
    *,
    mac: bytes = bytes.fromhex("525400000001"),
    name: str = "eth0",
    addresses: Iterable[str] = (),
    vnet_header: bool = True,
    up: bool = True,
    quiet: bool = True,
    uid: int | None = None,
) -> Iterator[Lent]:
    """Make a namespace with a TAP in it and yield the TAP's descriptor.

    ``quiet`` turns IPv6 off unless ``addresses`` has some, so that the kernel says nothing by
    itself. The descriptor is closed at the end unless it was given away.
    """
    wanted = [ip_interface(address) for address in addresses]
    silent = quiet and not any(address.version == 6 for address in wanted)

    def make() -> int:
        fd = tap.create_tap(name, vnet_header=vnet_header)
        tap.set_mac(fd, mac)
        if silent:
            with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as setting:
                setting.write("1")
        with netlink.Netlink() as net:
            net.set_eui64(name)
            if up:
                net.set_up(name)
            for address in wanted:
                net.add_address(name, address)
        return fd

    with namespace(uid) as space:
        fd = space.descriptor(make)
        lent = Lent(space, fd, name, mac)
        try:
            yield lent
        finally:
            if not lent.given:
                os.close(fd)


def ethernet(
    destination: bytes, source: bytes, payload: bytes, ethertype: int = EXPERIMENTAL
) -> bytes:
    """Return an Ethernet frame without padding or FCS."""
    return destination + source + struct.pack("!H", ethertype) + payload


def slow_rules(name: str, depth: int = 13) -> str:
    """Return nftables rules that make a stack take 100 ms or more for each frame it gets.

    Chains that jump three times to the next, on the ingress hook of ``name``: what any user may do
    to an interface of his own. Each level more takes three times as long; 16 is the kernel's limit.
    """
    rules = ["table netdev slow {"]
    for level in range(depth, 0, -1):
        jumps = f"jump c{level + 1}\n" * 3 if level < depth else "@ll,0,8 0x11\n" * 10
        rules.append(f"chain c{level} {{ {jumps} }}")
    rules.append(f"chain in {{ type filter hook ingress device {name} priority 0;")
    rules.append("jump c1\n }\n }\n")
    return "\n".join(rules)


def slow_down(space: Namespace, name: str, depth: int = 13) -> None:
    """Load :func:`slow_rules` in a namespace."""
    text = slow_rules(name, depth)
    done = space.call(
        lambda: subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True)
    )
    assert done.returncode == 0, done.stderr


def readable(descriptor: HasFileno | int, timeout_s: float = 20.0) -> bool:
    """Wait until ``descriptor`` polls readable or in error; return whether it did in time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def no_more_threads_than(before: set[str]) -> None:
    """Wait for threads to leave the kernel's list, which they do after their last word."""
    until = time.monotonic() + 5
    while set(os.listdir("/proc/self/task")) - before:
        assert time.monotonic() < until, "a thread was left behind"
        os.sched_yield()


def open_descriptors() -> set[str]:
    """Return what every descriptor of this process points at, as /proc shows it, numbered."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return {entry for entry in found if not entry.endswith("/fd")}


def _become(uid: int) -> None:
    if os.geteuid() != uid:
        process.become(uid, uid)


@contextmanager
def _child(function: Callable[[], object], on_error: socket.socket | None = None) -> Iterator[int]:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        # The child never returns into pytest, and none of pytest's cleanup runs in it.
        try:
            process.set_parent_death_signal(parent)
            function()
        except BaseException:
            text = traceback.format_exc().encode()
            if on_error is not None:
                on_error.sendall(text)
            else:
                os.write(2, text)
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
