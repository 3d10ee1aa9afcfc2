"""``pfinet-client run --dhcp``: addresses, routes and names of servers from the network itself.

IPv4 is asked for by a DHCP client that is installed: udhcpc, its own or busybox's, or ISC's
dhclient. Whatever it is told it passes on to a *keeper*, a child of the inner half, which sets the
address, the default route and resolv.conf, and starts it again if it ends: renewals go on for as
long as the command runs, and end with it. IPv6 is the kernel's business: it makes its address when
a router announces a prefix.

resolv.conf is a file of the mount namespace of the command. What asks a service of the machine
instead of reading it (nscd, systemd-resolved) finds nobody there.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from hypervisor.kernel import namespaces, process, tools
from hypervisor.kernel.changes import ChangeBell

if TYPE_CHECKING:
    from hypervisor.kernel.netlink import Netlink

#: How long addresses are waited for, and how long those of IPv6 once there is one of IPv4.
PATIENCE_S: Final = 10.0
IPV6_PATIENCE_S: Final = 1.0
#: How long IPv4 is waited for once there is an address of IPv6: there may be no DHCP at all.
IPV4_PATIENCE_S: Final = 4.0
#: The first pause before a DHCP client that ended is started again, and the longest.
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0

#: Where the script writes and its own text are, for the client and what it starts.
_EVENTS_FD: Final = 8
_SCRIPT_FD: Final = 9
_LEASES_FD: Final = 10
_SETTINGS_FD: Final = 11
#: dhclient's: left to itself it asks for the second time after up to ten seconds.
_SETTINGS: Final = "initial-interval 1;\nbackoff-cutoff 2;\nretry 5;\n"
#: What the clients run. One line: what happened, address, prefix or mask, routers, servers, names.
#: (udhcpc says what happened as an argument, dhclient in $reason.)
_SCRIPT: Final = f"""#!/bin/sh
if [ -n "$reason" ]; then
    set -- "$reason"
    ip=$new_ip_address mask=$new_subnet_mask router=$new_routers
    dns=$new_domain_name_servers search=${{new_domain_search:-$new_domain_name}}
fi
echo "$1|$ip|$mask|$router|$dns|${{search:-$domain}}" >&{_EVENTS_FD}
"""
_GRANTED: Final = frozenset(("bound", "renew", "BOUND", "RENEW", "REBIND", "REBOOT"))
_TAKEN_BACK: Final = frozenset(("deconfig", "EXPIRE", "FAIL", "STOP", "RELEASE"))
_MAX_LINE_BYTES: Final = 4_096

_RESOLV_CONF: Final = "/etc/resolv.conf"
_ELSEWHERE: Final = (
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/nscd/socket",
    "/var/run/nscd/socket",
)
_CAPABILITIES = (process.Capability.NET_RAW, process.Capability.NET_BIND_SERVICE)


@dataclass(frozen=True, slots=True)
class DhcpClient:
    """A DHCP client that is installed: its path, and its arguments but for the interface."""

    path: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Granted:
    """What a DHCP server granted. Lists may be empty; ``search`` are domains."""

    address: ipaddress.IPv4Interface
    routers: tuple[ipaddress.IPv4Address, ...]
    servers: tuple[ipaddress.IPv4Address, ...]
    search: tuple[str, ...]


def find_client() -> DhcpClient | None:
    """Return the DHCP client to use, None if none is installed."""
    script = f"/proc/self/fd/{_SCRIPT_FD}"
    steady = ("-f", "-t", "5", "-T", "1", "-A", "1", "-O", "search", "-s", script, "-i")
    if path := tools.find_tool("udhcpc"):
        return DhcpClient(path, ("udhcpc", *steady))
    if path := tools.find_tool("busybox"):
        return DhcpClient(path, ("busybox", "udhcpc", *steady))
    if path := tools.find_tool("dhclient"):
        leases = f"/proc/self/fd/{_LEASES_FD}"
        settings = f"/proc/self/fd/{_SETTINGS_FD}"
        words = ("-4", "-d", "--no-pid", "-cf", settings, "-lf", leases, "-sf", script)
        return DhcpClient(path, ("dhclient", *words))
    return None


def read_grant(line: str) -> Granted | None:
    """Read what the script wrote: None if it grants nothing that can be used."""
    what, *values = line.rstrip("\n").split("|")
    if what not in _GRANTED or len(values) != 5:
        return None
    ip, mask, routers, servers, search = values
    try:
        return Granted(
            ipaddress.IPv4Interface(f"{ip}/{mask or 32}"),
            tuple(map(ipaddress.IPv4Address, routers.split())),
            tuple(map(ipaddress.IPv4Address, servers.split())),
            # A server says anything: only what can be a name goes into a file.
            tuple(each for each in search.split() if _is_domain(each))[:6],
        )
    except ValueError:
        return None


def _is_domain(text: str) -> bool:
    return len(text) < 256 and all(each.isalnum() or each in ".-_" for each in text)


def resolv_conf(granted: Granted) -> str:
    """Return the text of a resolv.conf(5)."""
    lines = [f"search {' '.join(granted.search)}"] if granted.search else []
    return "\n".join([*lines, *(f"nameserver {each}" for each in granted.servers[:3]), ""])


def enter(keep_uid: bool) -> None:
    """Enter namespaces for a command that gets its addresses from the network.

    As :func:`~hypervisor.kernel.namespaces.unshare_user_net`, and a mount namespace.
    """
    namespaces.unshare_user_net(keep_uid)
    namespaces.private_mounts()
    # Ask for routers at once, and use at once what nobody else can have.
    for name in ("router_solicitation_delay", "accept_dad"):
        with open(f"/proc/sys/net/ipv6/conf/default/{name}", "w", encoding="ascii") as setting:
            setting.write("0")


def configure(client: DhcpClient, interface: str, route: bool, say: Callable[[str], None]) -> None:
    """Get addresses for ``interface``, which is up; keep them in a child of this process.

    ``say`` is told what happens later, in one line. With ``route`` the default route is set too.
    Call it where :func:`enter` was called. Raises RuntimeError if there are none.
    """
    parent = os.getpid()
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        _be_keeper(_Keeper(client, interface, say, writer, route), parent)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as answer:
        text = answer.read()
    if text != "ok":
        raise RuntimeError(text or "what asks for addresses inside was killed")


def _be_keeper(keeper: _Keeper, parent_pid: int) -> NoReturn:
    try:
        process.set_parent_death_signal(parent_pid)
        keeper.run()
    except Exception as error:
        # There is nobody above to raise to: the user is told.
        keeper.fail(str(error))
    finally:
        os._exit(1)


class _Keeper:
    """The child that keeps the addresses. ``answer`` is closed once it is known how it began."""

    def __init__(
        self,
        client: DhcpClient,
        interface: str,
        say: Callable[[str], None],
        answer: int,
        route: bool,
    ) -> None:
        self._client = client
        self._interface = interface
        self._say = say
        self._answer = answer
        self._route = route
        self._granted: Granted | None = None
        self._resolv = -1
        self._events = select.poll()
        self._pidfd = self._pid = -1
        self._pause_s = _FIRST_PAUSE_S

    def fail(self, why: str) -> None:
        """Say why there are no addresses: to who waits, or to the user."""
        if self._answer >= 0:
            self._reply(why)
        else:
            self._say(f"addresses are no longer renewed: {why}")

    def _reply(self, text: str) -> None:
        os.write(self._answer, text.encode())
        os.close(self._answer)
        self._answer = -1

    def run(self) -> NoReturn:
        from hypervisor.kernel.netlink import Netlink

        self._resolv = _private_resolv_conf()
        if self._resolv < 0:
            self._say(f"there is no {_RESOLV_CONF} to put the network's name servers in")
        reader, writer = os.pipe()
        script = _file_in_memory(_SCRIPT)
        with ChangeBell() as bell, Netlink() as net:
            self._start(script, writer)
            self._events.register(reader, select.POLLIN)
            self._events.register(bell, select.POLLIN)
            self._wait(reader, bell, net)
            self._reply("ok")
            while True:
                self._events.poll()
                bell.silence()
                self._take(reader, net)
                self._look_after(script, writer)

    def _wait(self, reader: int, bell: ChangeBell, net: Netlink) -> None:
        """Return when there are the addresses that will come. Raises RuntimeError."""
        begun = time.monotonic()
        first: dict[int, float] = {}
        while True:
            now = time.monotonic()
            if self._granted is not None:
                first.setdefault(4, now)
            if any(each.version == 6 and not each.is_link_local for each in self._global(net)):
                first.setdefault(6, now)
            if len(first) == 2:
                return
            until = begun + PATIENCE_S
            if 4 in first:
                until = first[4] + IPV6_PATIENCE_S
            elif 6 in first:
                until = first[6] + IPV4_PATIENCE_S
            if now >= until:
                if first:
                    return
                raise RuntimeError(
                    f"no DHCP server or router answered within {PATIENCE_S:g} s: does the network "
                    "have a gateway with dhcp or ra? Else give the device an --address"
                )
            self._events.poll((until - now) * 1000)
            bell.silence()
            self._take(reader, net)

    def _global(self, net: Netlink) -> list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
        return [each for each in net.addresses(self._interface) if not each.is_link_local]

    def _start(self, script: int, writer: int) -> None:
        leases, settings = os.memfd_create("leases"), _file_in_memory(_SETTINGS)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                nothing = os.open(os.devnull, os.O_RDWR)
                # First out of the way of the numbers below.
                for number, fd in enumerate((writer, script, leases, settings, nothing), 20):
                    os.dup2(fd, number)
                wanted = (_EVENTS_FD, _SCRIPT_FD, _LEASES_FD, _SETTINGS_FD)
                for fd, number in enumerate(wanted, 20):
                    os.dup2(fd, number)
                process.set_parent_death_signal(os.getppid())
                process.pass_on_capabilities(_CAPABILITIES)
                arguments = (*self._client.arguments, self._interface)
                tools.execute(self._client.path, arguments, (24, 24, 24))
            finally:
                os._exit(1)
        os.close(leases)
        os.close(settings)
        self._pidfd = os.pidfd_open(self._pid)
        self._events.register(self._pidfd, select.POLLIN)

    def _look_after(self, script: int, writer: int) -> None:
        """Start the client again if it ended."""
        if os.waitpid(self._pid, os.WNOHANG)[0]:
            self._events.unregister(self._pidfd)
            os.close(self._pidfd)
            self._say(f"{self._client.arguments[0]} ended; it is started again")
            time.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._start(script, writer)

    def _take(self, reader: int, net: Netlink) -> None:
        """Take in what the client's script wrote, if it did."""
        if not select.select([reader], [], [], 0)[0]:
            return
        # The script writes a line at once, and so it arrives (pipe(7): up to PIPE_BUF bytes).
        for line in os.read(reader, _MAX_LINE_BYTES).decode(errors="replace").splitlines():
            granted = read_grant(line)
            if granted is not None:
                self._apply(granted, net)
            elif line.partition("|")[0] in _TAKEN_BACK and self._granted is not None:
                self._say(f"the address {self._granted.address.ip} was taken back")
                with contextlib.suppress(OSError):
                    net.remove_address(self._interface, self._granted.address)
                self._granted = None

    def _apply(self, granted: Granted, net: Netlink) -> None:
        before, self._granted = self._granted, granted
        if before == granted:
            return
        if before is None or before.address != granted.address:
            if before is not None:
                self._say(f"the address is {granted.address.ip} from now on")
                net.remove_address(self._interface, before.address)
            net.add_address(self._interface, granted.address)
        if self._route and granted.routers:
            net.set_default_route(self._interface, granted.routers[0])
        if granted.servers and self._resolv >= 0:
            text = resolv_conf(granted).encode()
            os.ftruncate(self._resolv, 0)
            os.pwrite(self._resolv, text, 0)


def _private_resolv_conf() -> int:
    """Put a file of our own in the place of resolv.conf; returns its descriptor, -1 without."""
    target = os.path.realpath(_RESOLV_CONF)
    if not os.path.isfile(target):
        return -1
    for path in _ELSEWHERE:
        if os.path.exists(path):
            namespaces.bind_file(os.devnull, path)
    name = f"/tmp/resolv.conf-{os.urandom(8).hex()}"
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o644)
        with open(target, "rb") as file:
            os.write(fd, file.read())
        namespaces.bind_file(name, target)
    finally:
        os.unlink(name)
    return fd


def _file_in_memory(text: str) -> int:
    """Return a descriptor of a file that can be executed, so not one that writes (ETXTBSY)."""
    fd = os.memfd_create("dhcp")
    try:
        os.write(fd, text.encode())
        os.fchmod(fd, 0o700)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)
