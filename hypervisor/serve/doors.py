"""Everything a server opens before it gives up privilege: state, nodes, the TCP listener."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hypervisor.config.model import (
    GuestConfig,
    ListenConfig,
    ServerConfig,
    TranslatorConfig,
    VdeConfig,
)
from hypervisor.kernel.places import runtime_directory
from hypervisor.kernel.process import Capability
from hypervisor.serve.announce import endpoint
from hypervisor.serve.errors import StartError
from hypervisor.serve.heritage import (
    ACTIVATED,
    LISTENER,
    LOCK,
    NODE,
    STATE,
    UPLINK,
    Bequest,
    Heritage,
)
from hypervisor.service.certificates import CertificateError, ServerCertificates
from hypervisor.service.front_door import Listener
from hypervisor.service.guests import GuestSocket
from hypervisor.service.node import Node, NodeError, capabilities_to_remove, claim_node
from hypervisor.service.systemd import InheritedSocket
from hypervisor.service.vde import VdeSocket
from hypervisor.store import LeaseStore, StateDirectory, StoreError, private_directory

if TYPE_CHECKING:
    from hypervisor.serve.uplinks import UplinkDoor


@dataclass(frozen=True, slots=True)
class Doors:
    """What is open: nodes, listeners on them and on TCP, secrets by network, leases, TLS files."""

    state: StateDirectory
    nodes: Sequence[Node]
    guests: Sequence[GuestSocket]
    vdes: Sequence[VdeSocket]
    listeners: Sequence[Listener]
    secrets: Mapping[str, bytes]
    leases: LeaseStore
    uplinks: Sequence[UplinkDoor] = ()
    tcp: Listener | None = None
    certificates: ServerCertificates | None = None

    def withdraw(self) -> None:
        """Remove the nodes, so that nobody finds them any more."""
        for node in self._all():
            node.close()

    def capabilities(self) -> frozenset[Capability]:
        """Return what is needed to withdraw."""
        needed: frozenset[Capability] = frozenset()
        for node in self._all():
            if node.ours:
                needed |= capabilities_to_remove(node.path)
        return needed

    def bequests(self) -> dict[str, Bequest]:
        """Return what a server that follows this one needs of it (the descriptors stay ours)."""
        left = {f"{STATE} ": Bequest(self.state.lock_fd)}
        for node in self._all():
            if node.ours:
                assert node.identity is not None
                left[f"{NODE} {node.path}"] = Bequest(node.socket.fileno(), node.identity)
                left[f"{LOCK} {node.path}"] = Bequest(node.lock_fd)
            else:
                left[f"{ACTIVATED} {node.path}"] = Bequest(node.socket.fileno(), (node.network,))
        if self.tcp is not None:
            left[f"{LISTENER} {self.tcp.label}"] = Bequest(self.tcp.socket.fileno())
        for door in self.uplinks:
            name = f"{UPLINK} {door.config.network} {door.config.interface}"
            left[name] = Bequest(door.socket.fileno(), (door.header_bytes,))
        return left

    def take_over(self) -> None:
        """Make the nodes ours, to be removed in the end: nobody else serves on them any more."""
        for node in self._all():
            node.removable = True
        self.state.sign()

    def hand_over(self) -> None:
        """Leave the nodes where they are when we close: another server listens on them."""
        for node in self._all():
            node.removable = False

    def _all(self) -> Sequence[Node]:
        guests = [one.node for one in self.guests]
        return [*self.nodes, *guests, *(one.node for one in self.vdes)]


@contextlib.contextmanager
def opened(
    config: ServerConfig,
    inherited: Sequence[InheritedSocket] = (),
    heritage: Heritage | None = None,
) -> Iterator[Doors]:
    """Open everything, and close it in the end. Raises StartError with nothing left open.

    ``inherited`` is a service manager's, ``heritage`` that of the server that we follow.
    """
    with contextlib.ExitStack() as stack:
        try:
            doors = _open(config, inherited, heritage or Heritage(), stack)
        except (StoreError, NodeError, CertificateError) as error:
            raise StartError(str(error)) from error
        yield doors


def _open(
    config: ServerConfig,
    inherited: Sequence[InheritedSocket],
    heritage: Heritage,
    stack: contextlib.ExitStack,
) -> Doors:
    by_path = {one.path: one.socket for one in inherited}
    for one in inherited:
        stack.callback(one.socket.close)
    # Before anything is made that others see.
    certificates = None if config.tls is None else ServerCertificates(config.tls)
    lock = heritage.take(STATE)
    state = stack.enter_context(StateDirectory(config.state, lock.fd if lock else -1))
    secrets = {network.name: state.secret(network.name) for network in config.networks}
    leases = state.leases()
    stack.callback(leases.close)
    nodes = []
    for translator in config.translators:
        node = _node(translator, by_path.get(translator.path), heritage)
        stack.callback(node.close)
        nodes.append(node)
    guests = []
    for guest in config.guests:
        guests.append(_guest_socket(guest, heritage))
        stack.callback(guests[-1].node.close)
    vdes = []
    for vde in config.vdes:
        stack.callback(_remove_if_empty, vde.path)
        vdes.append(_vde_socket(vde, heritage))
        stack.callback(vdes[-1].node.close)
    listeners = [Listener(node.socket, node.network, str(node.path)) for node in nodes]
    tcp = None
    if config.listen is not None:
        tcp = _listen(config.listen, heritage, certificates is not None)
        stack.callback(tcp.socket.close)
        listeners.append(tcp)
    uplinks = _uplinks(config, heritage, stack)
    return Doors(state, nodes, guests, vdes, listeners, secrets, leases, uplinks, tcp, certificates)


def _uplinks(
    config: ServerConfig, heritage: Heritage, stack: contextlib.ExitStack
) -> list[UplinkDoor]:
    if not config.uplinks:
        return []
    # Brings netlink along, as gateways do (hypervisor.serve.gateways). Here, not when it is used:
    # who gave his privileges up may be unable to read it.
    from hypervisor.serve.uplinks import open_uplink

    return [open_uplink(uplink, stack, heritage) for uplink in config.uplinks]


def _node(
    translator: TranslatorConfig, inherited: socket.socket | None, heritage: Heritage
) -> Node:
    if inherited is not None:
        return Node(translator.path, translator.network, inherited)
    left = heritage.take_node(translator.path, translator.network)
    if left is not None:
        return left
    _make_own_folder(translator.path.parent)
    return claim_node(
        translator.path,
        translator.network,
        translator.owner,
        translator.group,
        translator.mode,
    )


def _guest_socket(guest: GuestConfig, heritage: Heritage) -> GuestSocket:
    """Publish a guest's socket, as its owner's where that can be."""
    node = heritage.take_node(guest.path, guest.network) or claim_node(
        guest.path,
        guest.network,
        _given_to(guest.path, guest.owner, guest.mode),
        mode=guest.mode,
        flag=f"--{guest.kind}",
        datagrams=guest.kind == "dgram",
    )
    return GuestSocket(node, guest.kind, guest.owner, guest.device)


def _given_to(path: Path, owner: int, mode: int) -> int | None:
    """Return whom a socket of ``owner``'s can be given to: him, or if we are not root nobody."""
    if os.geteuid() in (0, owner):
        return owner
    # So others must be able to open it; they are told apart when they do.
    if not mode & 0o022:
        raise StartError(
            f"uid {owner}, who owns {path}, could not open it with mode {mode:04o}: add mode=0666, "
            "whoever else connects is refused"
        )
    return None


def _vde_socket(vde: VdeConfig, heritage: Heritage) -> VdeSocket:
    """Make the folder, if it is not there, and publish its control socket."""
    left = heritage.take_node(vde.path / "ctl", vde.network)
    if left is not None:
        return VdeSocket(left, vde.owner, vde.device, vde.ports)
    try:
        vde.path.mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        raise StartError(f"cannot make the VDE folder {vde.path}: {error.strerror}") from error
    path = vde.path / "ctl"
    owner = _given_to(path, vde.owner, vde.mode)
    node = claim_node(path, vde.network, owner, mode=vde.mode, flag="--vde")
    return VdeSocket(node, vde.owner, vde.device, vde.ports)


def _remove_if_empty(folder: Path) -> None:
    """Take a VDE folder away, as vde_switch does, unless somebody keeps something there."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _make_own_folder(folder: Path) -> None:
    """Make the folder in /tmp that default nodes go to where there is no better one.

    Any other folder is made by whoever wants a node there.
    """
    if folder == runtime_directory({}, os.geteuid()) and folder.parent == Path("/tmp"):
        private_directory(folder)


def _listen(listen: ListenConfig, heritage: Heritage, tls: bool) -> Listener:
    label = endpoint(listen.host, listen.port)
    left = heritage.take_socket(LISTENER, label)
    if left is not None:
        return Listener(left[0], listen.network, label, tls)
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" is every address of this machine, as people expect of it, also where the
            # sysctl net.ipv6.bindv6only says otherwise.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((listen.host, listen.port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise StartError(
            f"cannot listen on {label}: {error.strerror}; choose another port with --listen"
        ) from error
    port = sock.getsockname()[1]
    return Listener(sock, listen.network, endpoint(listen.host, port), tls)
