"""Process 1 of a gateway: makes its network, starts pasta, and is what everything there ends with.

What it does before it unshares its network happens in the machine's: a routing socket and a bell
opened there keep telling about the machine's addresses and default routes, and pasta is forked
there, since its sockets are the way out. pasta then opens this namespace by the /proc entry of the
*holder*, a child without capabilities: pasta gives up CAP_SYS_PTRACE before it looks, and could not
open that of a process which has more than itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from functools import partial
from socket import AF_PACKET, MSG_DONTWAIT, SOCK_DGRAM, socket
from typing import NoReturn

from hypervisor.gateway import dnsmasq
from hypervisor.gateway import plan as plans
from hypervisor.gateway.butler import Butler
from hypervisor.gateway.directory import Directory
from hypervisor.gateway.dnsmasq import duties
from hypervisor.gateway.obstacles import missing_tool
from hypervisor.gateway.plan import INSIDE, OUTSIDE, GatewayPlan
from hypervisor.gateway.poller import Poller
from hypervisor.gateway.pulse import LOOKS, Pulse
from hypervisor.gateway.resolvers import Resolvers
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

_WAY_OUT = "the way out"
#: What pasta is shown now and then: a frame of a local experimental EtherType (RFC 5342), for all.
_NUDGE, _NUDGE_TYPE, _EVERYBODY = bytes(46), 0x88B5, b"\xff" * 6
#: Where dnsmasq's files are: in memory, in a mount namespace of this gateway's own.
_FOLDER = "/tmp"
_FOLDER_BYTES = 16 << 20
#: How often the machine's list of resolvers is looked at.
RESOLVERS_S = 5.0


class GatewayFailure(Exception):
    """This run of the gateway is over; the message says why and what to do."""


class NoTap(GatewayFailure):
    """No TAP can be made here; the keeper knows how to find out why."""


class Inside:
    """A gateway from inside. Make it in the machine's network namespace, then :meth:`run` it."""

    def __init__(self, plan: GatewayPlan, sock: socket) -> None:
        self._plan = plan
        self._sock = sock
        self._nft = _needed("nft")
        self._pasta = _needed("pasta") if plan.nat else ""
        self._machine = Netlink()
        self._machine_bell = ChangeBell()
        self._ways_out = self._machine.default_routes()
        self._hosts = self._machine.all_addresses()
        self._versions = self._versions_out()
        self._resolvers = Resolvers(plan, self._versions, self._hosts)
        self._stand_ins = self._resolvers.stand_ins
        self._poller = Poller()
        self._patience: int | None = self._poller.after(plan.start_s, self._too_late)
        self._butlers: list[Butler] = []
        self._directory: Directory | None = None
        self._output = -1
        self._said = b""
        #: What it waits for before it is ready.
        self._missing = {_WAY_OUT} if self._versions else set()

    def _versions_out(self) -> frozenset[int]:
        if not self._plan.nat:
            return frozenset()
        found = self._plan.versions() & {version for version, _ in self._ways_out}
        if not found:
            families = " or ".join(f"IPv{version}" for version in sorted(self._plan.versions()))
            raise GatewayFailure(f"this machine has no default route of {families} to follow")
        return found

    def run(self, leash: int) -> NoReturn:
        """Be the gateway until its server, its keeper or pasta ends. Raises GatewayFailure."""
        watch = self._poller.watch
        watch(leash, _over)
        watch(self._machine_bell.fileno(), self._machine_changed)
        pasta = self._fork_pasta() if self._versions else None
        namespaces.unshare(namespaces.CLONE_NEWNET)
        self._make_network()
        watch(self._sock.fileno(), self._hear)
        if pasta is not None:
            self._connect(*pasta)
        if self._plan.serves:
            self._engage()
        self._look_whether_ready()
        while True:
            self._poller.turn()

    def _connect(self, go: int, pasta: int, output: int) -> None:
        """Let pasta in, and wait until it has made the way out."""
        holder = self._hold(go)
        bell, inner = ChangeBell(), Netlink()

        def look() -> None:
            bell.silence()
            if not self._versions <= {version for version, _ in inner.default_routes()}:
                return
            self._poller.forget(bell.fileno())
            inner.set_queue_length(OUTSIDE, self._plan.outside_queue_packets)
            inner.close()
            bell.close()
            os.kill(holder, signal.SIGKILL)
            os.waitpid(holder, 0)
            self._look_after(pasta)
            self._settled(_WAY_OUT)

        self._output = output
        self._poller.watch(output, self._read)
        self._poller.watch(os.pidfd_open(pasta), lambda: self._pasta_ended(pasta))
        self._poller.watch(bell.fileno(), look)
        look()

    def _look_after(self, pasta: int) -> None:
        """See from now on whether pasta takes what goes out, which a stopped one does not."""
        pulse, nudger = Pulse(pasta), socket(AF_PACKET, SOCK_DGRAM)

        def look() -> None:
            if pulse.stopped(waiting=True):
                still_s = LOOKS * self._plan.look_s
                raise GatewayFailure(f"pasta has stopped: it has done nothing for {still_s:g} s")
            # It has to read this before it can know that it is nothing.
            with contextlib.suppress(OSError):  # its queue is full of what it has not read
                nudger.sendto(_NUDGE, (OUTSIDE, _NUDGE_TYPE, 0, 0, _EVERYBODY))
            self._poller.after(self._plan.look_s, look)

        look()

    def _engage(self) -> None:
        """Have dnsmasq started as soon as the server says who is there."""
        path = tools.find_tool("dnsmasq")
        if path is None:
            self._say(f"{missing_tool('dnsmasq')}: no addresses or names are given")
            return
        namespaces.private_mounts()
        namespaces.mount_memory(_FOLDER, _FOLDER_BYTES)
        for duty in duties(self._plan, _FOLDER):
            settled = partial(self._settled, duty.what)
            butler = Butler(duty, path, _FOLDER, self._poller, self._plan, self._say, settled)
            self._butlers.append(butler)
            self._missing.add(duty.what)
        if self._plan.dns:
            self._poller.after(RESOLVERS_S, self._look_at_resolvers)

    def _settled(self, what: str) -> None:
        """Something it waits for is there, or will come later if at all."""
        self._missing.discard(what)
        self._look_whether_ready()

    def _look_whether_ready(self) -> None:
        if self._patience is not None and not self._missing:
            self._poller.cancel(self._patience)
            self._patience = None
            messages.send(self._sock, "ready", versions=sorted(self._versions))

    def _too_late(self) -> None:
        if _WAY_OUT in self._missing:
            raise GatewayFailure(
                f"pasta made no way out within {self._plan.start_s:g} s{self._last_words()}"
            )
        # What else is missing has been said, or is soon, and what is there works.
        self._missing.clear()
        self._look_whether_ready()

    def _say(self, text: str) -> None:
        """Tell the server a sentence that it logs."""
        with contextlib.suppress(OSError):  # it is gone, or does not listen: nobody would read it
            messages.send(self._sock, "said", text=text)

    # --- making -------------------------------------------------------------------------------

    def _fork_pasta(self) -> tuple[int, int, int]:
        """Fork what will be pasta; return a pipe that it awaits its word on, pid and output.

        Its word is where the namespace is.
        """
        awaited, go = os.pipe()
        output, writer = os.pipe()
        os.set_blocking(output, False)
        pid = os.fork()
        if pid == 0:
            os.close(go)
            try:
                netns = os.read(awaited, 100).decode()
                nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                arguments = plans.pasta_arguments(
                    netns, self._versions, self._stand_ins, self._plan.forwards
                )
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
            if plan.forwards:
                # What came by this machine's loopback comes by that of this namespace.
                _write_setting(f"net/ipv4/conf/{INSIDE}/route_localnet", "1")
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
        """The server says who is there, or is gone."""
        try:
            message, fds = messages.receive(self._sock, MSG_DONTWAIT)
        except BlockingIOError:
            return
        if message["kind"] != "directory":
            _over()
        before = self._directory
        with os.fdopen(fds[0], "rb") as file:
            self._directory = Directory.of_json(json.load(file))
        rules = self._directory.forward_rules
        if rules and (before is None or before.forward_rules != rules):
            self._rules(rules)
        self._instruct()

    def _instruct(self) -> None:
        if self._directory is not None:
            texts = dnsmasq.texts(self._directory, self._resolvers.servers)
            for butler in self._butlers:
                butler.serve(texts)

    def _look_at_resolvers(self) -> None:
        self._poller.after(RESOLVERS_S, self._look_at_resolvers)
        if not self._resolvers.changed():
            return
        if self._resolvers.stand_ins or self._stand_ins:
            # pasta has read whom they stand for when it was started, and only then.
            raise GatewayFailure("this machine's resolvers have changed")
        self._instruct()

    def _machine_changed(self) -> None:
        self._machine_bell.silence()
        if self._machine.default_routes() != self._ways_out:
            raise GatewayFailure("this machine's default route has changed")
        hosts = self._machine.all_addresses()
        if hosts != self._hosts:
            self._hosts = hosts
            self._rules(plans.host_rules(self._plan, hosts))

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._output, _OUTPUT_BYTES)
            self._said = (self._said + data)[-_OUTPUT_BYTES:]
            if not data:
                self._poller.forget(self._output)

    def _pasta_ended(self, pid: int) -> NoReturn:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        raise GatewayFailure(f"pasta {how}" + self._last_words())

    def _last_words(self) -> str:
        if self._poller.watches(self._output):
            self._read()
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
