"""The network of the demo: a server, two stacks, a folder; three users if we are root."""

from __future__ import annotations

import codecs
import contextlib
import os
import pwd
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import TypeVar

from hypervisor.config import FlagValues, load_config
from hypervisor.demo.children import Child, DemoError, Family, Question, is_readable
from hypervisor.kernel import namespaces, scm
from hypervisor.kernel.netlink import Netlink
from hypervisor.kernel.preflight import preflight
from hypervisor.serve import run_config
from pfinet_client.run import RunOptions, preload, run

T = TypeVar("T")

#: Name of the interface in each namespace, and of the device on the server.
INTERFACE = "eth0"
#: Addresses of the two stacks: RFC 1918 and RFC 4193, seen by nobody else.
ADDRESSES = {
    "a": (IPv4Interface("10.77.0.1/24"), IPv6Interface("fd77::1/64")),
    "b": (IPv4Interface("10.77.0.2/24"), IPv6Interface("fd77::2/64")),
}

#: Where both stacks send what is for elsewhere, if there is a way out.
GATEWAY = (IPv4Interface("10.77.0.254/24"), IPv6Interface("fd77::fe/64"))

#: Where free uids are looked for: above people and packages, below nobody (65534).
_UIDS = range(64_001, 64_400)
_START_S = 10.0
_END_S = 2.0
_LOG_LINES = 12
#: What a stack runs: it says who it is, then waits until nobody holds the other end of its stdin.
_HOLD = ("/bin/sh", "-c", 'echo "$$"; read -r _')


@dataclass(frozen=True, slots=True)
class Users:
    """Who runs what: three ordinary users if we are root and they can be had, else one."""

    server: int
    a: int
    b: int

    @property
    def several(self) -> bool:
        """Whether they are different users."""
        return len({self.server, self.a, self.b}) == 3

    def of(self, stack: str) -> int:
        """Return the user of a stack by its name."""
        return {"a": self.a, "b": self.b}[stack]


@dataclass(frozen=True, slots=True)
class Space:
    """A stack that is up: its user, the namespaces it lives in, the command inside."""

    name: str
    uid: int
    user_fd: int
    net_fd: int
    command_pidfd: int

    def enter(self) -> None:
        """Move this process, which has one thread and the stack's uid, inside as root there."""
        for fd in (self.user_fd, self.net_fd):
            namespaces.join(fd)

    def close(self) -> None:
        """Let go of the namespaces."""
        for fd in (self.user_fd, self.net_fd, self.command_pidfd):
            os.close(fd)


class Stage:
    """The folder, the users and the processes of one run. Make it by :func:`stage`."""

    def __init__(self, folder: Path, users: Users, family: Family) -> None:
        self.folder = folder
        self.users = users
        self.family = family
        self.node = folder / "veth0"
        #: Whether the network has a gateway; decided before the server starts.
        self.way_out = False
        self.server: Child | None = None
        self.spaces: dict[str, Space] = {}

    # --- starting -----------------------------------------------------------------------------

    def start_server(self, guard: str) -> Child:
        """Start the server and wait until it says that it is ready."""
        reader, writer = os.pipe()
        flags = FlagValues(
            translators=[f"{self.node},mode=0666"] if self.users.several else [str(self.node)],
            networks=["demo,subnet=10.77.0.0/24,subnet=fd77::/64"],
            gateways=[",address=".join(map(str, GATEWAY)) + ",host=yes"] if self.way_out else [],
            guard=guard,
            state=str(self.folder / "state"),
            ready_fd=str(writer),
        )
        if self.users.several:
            os.chown(self.folder, self.users.server, self.users.server)
        log = self._log("server")

        def live() -> int:
            os.close(reader)
            _redirect(None, log, log)
            return run_config(load_config(None, flags))

        self.server = self.family.stay("the server", self.users.server, live)
        for fd in (writer, log):
            os.close(fd)
        with os.fdopen(reader, "rb") as said:
            self.family.wait(said.fileno(), _START_S)
            if said.read() != b"ready\n":
                self.family.check(_START_S)
                raise DemoError("the server did not become ready")
        return self.server

    def start_stack(self, name: str) -> Child:
        """Start ``pfinet-client run`` with a command that waits; it lives in ``spaces[name]``."""
        uid = self.users.of(name)
        options = RunOptions(
            command=_HOLD,
            addresses=ADDRESSES[name],
            gateways=tuple(each.ip for each in GATEWAY) if self.way_out else (),
            device=str(self.node),  # and of its devices the first free one
        )
        log = self._log(name)
        hold_reader, hold_writer = os.pipe()
        reader, writer = os.pipe()

        def live() -> int:
            os.close(hold_writer)
            os.close(reader)
            _redirect(hold_reader, writer, log)
            return run(options)

        stack = self.family.stay(f"stack {name}", uid, live)
        for fd in (hold_reader, writer, log):
            os.close(fd)
        with os.fdopen(reader, "rb", buffering=0) as said:
            self.family.wait(said.fileno(), _START_S)
            pid = said.readline()
        if not pid.strip().isdigit():
            self.family.check(_START_S)
            raise DemoError(f"stack {name} did not start")
        # The other end of its stdin stays open in this process: with that, it ends too.
        self.spaces[name] = _space(name, uid, int(pid))
        return stack

    # --- asking -------------------------------------------------------------------------------

    def ask_in(self, name: str, function: Callable[[Callable[[object], None]], T]) -> Question[T]:
        """Ask a child inside the namespaces of stack ``name``."""
        space = self.spaces[name]
        return self.family.ask(space.uid, function, space.enter)

    def inside(self, name: str, function: Callable[[], T]) -> T:
        """Return what ``function`` returns inside the namespaces of stack ``name``."""
        return self.ask_in(name, lambda _ready: function()).answer()

    def socket_in(self, name: str, make: Callable[[], socket.socket]) -> socket.socket:
        """Make a socket inside the namespaces of stack ``name``: it stays there wherever it goes.

        So whoever gets it can listen, send and hear in that namespace without entering it.
        """
        ours, theirs = socket.socketpair()

        def give() -> None:
            with make() as sock:
                scm.send(theirs, b".", [sock.fileno()])

        with ours, theirs:
            self.inside(name, give)
            _, fds = scm.receive(ours)
        return socket.socket(fileno=fds[0])

    def as_user(self, uid: int, function: Callable[[], T], timeout_s: float = 10.0) -> T:
        """Return what ``function`` returns in a child of ``uid``, outside of any namespace."""
        return self.family.ask(uid, lambda _ready: function()).answer(timeout_s)

    # --- ending -------------------------------------------------------------------------------

    def end(self) -> list[str]:
        """End all processes in order; return what did not go as it should, in words."""
        problems = []
        for child in reversed(self.family.staying):
            lived = child.ended() is None
            ending = child.end()
            if ending.forced:
                problems.append(f"{child.name} had to be killed")
            elif lived and child is self.server and ending.code != 0:
                problems.append(f"{child.name} said {ending}")
            elif lived and child is self.server and self.node.exists():
                problems.append("the node is still there")
        for space in self.spaces.values():
            if not is_readable(space.command_pidfd, _END_S):
                problems.append(f"a process is left in the namespace of stack {space.name}")
        return problems

    # --- looking ------------------------------------------------------------------------------

    def capabilities(self) -> dict[str, int]:
        """Return the effective capabilities of every process that stays, as a bit mask by name."""
        found = {}
        for child in self.family.staying:
            status = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii")
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            found[child.name] = int(fields["CapEff"], 16)
        return found

    def log_tail(self) -> list[str]:
        """Return the last lines of all logs, each with the name of who wrote it."""
        lines = []
        for path in sorted(self.folder.glob("*.log")):
            with contextlib.suppress(OSError):
                tail = path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
                lines += [f"{path.stem}: {line}" for line in tail]
        return lines

    def _log(self, name: str) -> int:
        path = self.folder / f"{name}.log"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def stage(interrupts: int) -> Iterator[Stage]:
    """Yield an empty stage; in the end every process of it is gone, and the folder with them.

    ``interrupts`` is for :class:`Family`.
    """
    # Another user must be able to reach it, which root's own $TMPDIR may not allow.
    shared = "/tmp" if os.geteuid() == 0 and os.path.isdir("/tmp") else None
    folder = Path(tempfile.mkdtemp(prefix="hypervisor-demo-", dir=shared))
    try:
        os.chmod(folder, 0o711)
        with Family(str(folder), interrupts) as family:
            made = Stage(folder, find_users(family), family)
            try:
                yield made
            finally:
                for space in made.spaces.values():
                    space.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def preload_all() -> None:
    """Import what children need who may not read this installation any more."""
    preload()
    import hypervisor.gateway.spawner  # noqa: F401  a server imports it if it has a gateway

    for codec in ("ascii", "latin-1", "utf-8", "idna"):  # each is a module of its own
        codecs.lookup(codec)
    if "uvloop" not in sys.modules:
        with contextlib.suppress(ImportError):
            import uvloop  # noqa: F401


def find_users(family: Family) -> Users:
    """Return three ordinary uids nobody uses, if we are root and may become them; else our own."""
    own = os.geteuid()
    if own == 0:
        found = _free_uids(3)
        if len(found) == 3:
            # In a container only some uids exist; becoming one is how to find out.
            with contextlib.suppress(DemoError):
                for uid in found:
                    family.ask(uid, lambda _ready: None).answer()
                return Users(*found)
    return Users(own, own, own)


def obstacles(stage: Stage) -> list[str]:
    """Return why a stack's user can have no namespace with a TAP here; empty if he can."""
    return [str(each) for each in stage.as_user(stage.users.a, preflight)]


def set_down() -> None:
    """Set the link of this namespace down: no frame comes or goes after that."""
    with Netlink() as net:
        net.set_down(INTERFACE)


def _free_uids(count: int) -> list[int]:
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                taken.add(os.stat(f"/proc/{name}").st_uid)
    return [uid for uid in _UIDS if uid not in taken][:count]


def _space(name: str, uid: int, pid: int) -> Space:
    """Take hold of the namespaces of process ``pid``, which this process may look at."""
    with contextlib.ExitStack() as undo:
        fds = []
        for kind in ("user", "net"):
            fds.append(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
            undo.callback(os.close, fds[-1])
        space = Space(name, uid, fds[0], fds[1], os.pidfd_open(pid))
        undo.pop_all()
    return space


def _redirect(standard_input: int | None, output: int, errors: int) -> None:
    """Give this process its standard descriptors; None reads as an empty file."""
    empty = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for number, fd in enumerate((empty if standard_input is None else standard_input, output)):
        os.dup2(fd, number)
    os.dup2(errors, 2)
