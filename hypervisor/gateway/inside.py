"""Process 1 of a gateway: makes its network, starts pasta, and is what everything there ends with.

What it does before it unshares its network happens in the machine's: a routing socket and a bell
opened there keep telling about the machine's addresses and default routes, and pasta is forked
there, since its sockets are the way out. pasta then opens this namespace by the /proc entry of the
*holder*, a child without capabilities: pasta gives up CAP_SYS_PTRACE before it looks, and could not
open that of a process which has more than itself.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from socket import MSG_DONTWAIT, socket
from typing import NoReturn

from hypervisor.gateway import plan as plans
from hypervisor.gateway.obstacles import missing_tool
from hypervisor.gateway.plan import INSIDE, GatewayPlan
from hypervisor.kernel import messages, namespaces, process, tap, tools
from hypervisor.kernel.changes import ChangeBell
from hypervisor.kernel.netlink import Netlink

#: Frames the TAP queues while the server is busy, as for any other stack.
_QUEUE_FRAMES = 2_000
_SETTINGS = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    # The prefixes are the operator's: an address in use is found by the server, not by asking.
    ("net/ipv6/conf/default/accept_dad", "0"),
)
#: What pasta says of itself without having been asked: it finds no syslog in a namespace.
_NOISE = "to syslog"
_OUTPUT_BYTES = 4096


class GatewayFailure(Exception):
    """This run of the gateway is over; the message says why and what to do."""


class NoTap(GatewayFailure):
    """No TAP can be made here; the keeper knows how to find out why."""


class Inside:
    """A gateway from inside. Make it in the machine's network namespace, then :meth:`run` it."""

    def __init__(self, plan: GatewayPlan, sock: socket) -> None:
        self._plan = plan
        self._sock = sock
        self._deadline = time.monotonic() + plan.start_s
        self._nft = _needed("nft")
        self._pasta = _needed("pasta")
        self._machine = Netlink()
        self._machine_bell = ChangeBell()
        self._ways_out = self._machine.default_routes()
        self._hosts = self._machine.all_addresses()
        self._versions = plan.versions() & {version for version, _ in self._ways_out}
        if not self._versions:
            families = " or ".join(f"IPv{version}" for version in sorted(plan.versions()))
            raise GatewayFailure(f"this machine has no default route of {families} to follow")
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._said = b""
        self._ready = False

    def run(self, leash: int) -> NoReturn:
        """Be the gateway until its server, its keeper or pasta ends. Raises GatewayFailure."""
        go, pasta, output = self._fork_pasta()
        namespaces.unshare(namespaces.CLONE_NEWNET)
        self._make_network()
        holder = self._hold(go)
        bell = ChangeBell()
        inner = Netlink()
        self._watch(leash, _over)
        self._watch(self._sock.fileno(), self._hear)
        self._watch(output, lambda: self._read(output))
        self._watch(os.pidfd_open(pasta), lambda: self._pasta_ended(pasta, output))
        self._watch(self._machine_bell.fileno(), self._machine_changed)
        self._watch(bell.fileno(), lambda: self._look_for_way_out(bell, inner, holder))
        self._look_for_way_out(bell, inner, holder)
        while True:
            timeout_s = None if self._ready else max(0.0, self._deadline - time.monotonic())
            events = self._poll.poll(None if timeout_s is None else timeout_s * 1000)
            if not events and not self._ready:
                raise GatewayFailure(
                    f"pasta made no way out within {self._plan.start_s:g} s"
                    + self._last_words(output)
                )
            for fd, _ in events:
                if fd in self._handlers:
                    self._handlers[fd]()

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    # --- making -------------------------------------------------------------------------------

    def _fork_pasta(self) -> tuple[int, int, int]:
        """Fork what will be pasta; return a pipe that it awaits its word on, pid and output."""
        awaited, go = os.pipe()
        output, writer = os.pipe()
        os.set_blocking(output, False)
        pid = os.fork()
        if pid == 0:
            os.close(go)
            try:
                netns = os.read(awaited, 100).decode()
                nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                arguments = plans.pasta_arguments(netns, self._versions)
                if netns:
                    tools.execute(self._pasta, ["pasta", *arguments], (nothing, writer, writer))
            except OSError as error:
                os.write(writer, f"{self._pasta}: {error.strerror}\n".encode())
            finally:
                os._exit(1)
        os.close(awaited)
        os.close(writer)
        return go, pid, output

    def _make_network(self) -> None:
        plan = self._plan
        for name, value in _SETTINGS:
            _write_setting(name, value)
        self._rules(plans.ruleset(plan, self._hosts))
        try:
            fd = tap.create_tap(INSIDE)
        except OSError as error:
            raise NoTap(f"no TAP can be made in its namespace: {error.strerror}") from None
        with Netlink() as net:
            net.set_up("lo")
            net.set_mac(INSIDE, plan.mac)
            net.set_mtu(INSIDE, plan.mtu_bytes)
            net.set_queue_length(INSIDE, _QUEUE_FRAMES)
            net.set_eui64(INSIDE)
            # Lent before it is up: the server has to set what it takes before the first frame.
            messages.send(self._sock, "tap", (fd,))
            os.close(fd)
            net.set_up(INSIDE)
            for address in plan.addresses:
                net.add_address(INSIDE, address)

    def _hold(self, go: int) -> int:
        """Fork the holder, which tells pasta where this namespace is; return its pid."""
        pid = os.fork()
        if pid == 0:
            try:
                process.drop_capabilities()
                process.be_examinable()
                # /proc is the machine's, and so is the number: ours begin anew with 1.
                os.write(go, f"/proc/{os.readlink('/proc/self')}/ns/net".encode())
                os.close(go)
                signal.pause()
            finally:
                os._exit(1)
        os.close(go)
        return pid

    def _rules(self, text: str) -> None:
        done = subprocess.run(
            [self._nft, "-f", "-"], input=text, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            why = next(iter(done.stderr.splitlines()), f"exit status {done.returncode}")
            raise GatewayFailure(
                f"nft refuses the rules of a gateway: {why}; it needs a kernel with nf_tables, "
                "nft_nat and nft_reject"
            )

    # --- watching -----------------------------------------------------------------------------

    def _hear(self) -> None:
        """The server says nothing: what comes is its end."""
        with contextlib.suppress(BlockingIOError):
            if not messages.receive(self._sock, MSG_DONTWAIT)[0]["kind"]:
                _over()

    def _look_for_way_out(self, bell: ChangeBell, inner: Netlink, holder: int) -> None:
        if self._ready:
            bell.silence()
            return
        bell.silence()
        found = {version for version, _ in inner.default_routes()}
        if not self._versions <= found:
            return
        self._ready = True
        self._poll.unregister(bell.fileno())
        inner.close()
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        messages.send(self._sock, "ready", versions=sorted(self._versions))

    def _machine_changed(self) -> None:
        self._machine_bell.silence()
        if self._machine.default_routes() != self._ways_out:
            raise GatewayFailure("this machine's default route has changed")
        hosts = self._machine.all_addresses()
        if hosts != self._hosts:
            self._hosts = hosts
            self._rules(plans.host_rules(self._plan, hosts))

    def _read(self, output: int) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(output, _OUTPUT_BYTES)
            self._said = (self._said + data)[-_OUTPUT_BYTES:]
            if not data:
                self._poll.unregister(output)
                del self._handlers[output]

    def _pasta_ended(self, pid: int, output: int) -> NoReturn:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        raise GatewayFailure(f"pasta {how}" + self._last_words(output))

    def _last_words(self, output: int) -> str:
        if output in self._handlers:
            self._read(output)
        lines = self._said.decode(errors="replace").splitlines()
        telling = [line.strip() for line in lines if line.strip() and _NOISE not in line]
        return f": {telling[-1]}" if telling else ""


def _needed(name: str) -> str:
    path = tools.find_tool(name)
    if path is None:
        raise GatewayFailure(missing_tool(name))
    return path


def _over() -> NoReturn:
    os._exit(0)


def _write_setting(name: str, value: str) -> None:
    try:
        with open(f"/proc/sys/{name}", "w", encoding="utf-8") as setting:
            setting.write(value)
    except OSError as error:
        raise GatewayFailure(
            f"/proc/sys/{name} cannot be set: {error.strerror}; in a container it must be writable"
        ) from None
