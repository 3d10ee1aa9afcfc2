"""Everything a server opens before it gives up privilege: state, nodes, the TCP listener."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from hypervisor.serve.uplinks import UplinkDoor, open_uplink
from hypervisor.service.front_door import Listener
from hypervisor.service.guests import GuestSocket
from hypervisor.service.node import Node, NodeError, capabilities_to_remove, claim_node
from hypervisor.service.systemd import InheritedSocket
from hypervisor.service.vde import VdeSocket
from hypervisor.store import LeaseStore, StateDirectory, StoreError, private_directory


@dataclass(frozen=True, slots=True)
class Doors:
    """What is open: nodes, listeners on them and on TCP, secrets by network, leases."""

    nodes: Sequence[Node]
    guests: Sequence[GuestSocket]
    vdes: Sequence[VdeSocket]
    listeners: Sequence[Listener]
    secrets: Mapping[str, bytes]
    leases: LeaseStore
    uplinks: Sequence[UplinkDoor] = ()

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

    def _all(self) -> Sequence[Node]:
        guests = [one.node for one in self.guests]
        return [*self.nodes, *guests, *(one.node for one in self.vdes)]


@contextlib.contextmanager
def opened(config: ServerConfig, inherited: Sequence[InheritedSocket] = ()) -> Iterator[Doors]:
    """Open everything, and close it in the end. Raises StartError with nothing left open."""
    with contextlib.ExitStack() as stack:
        try:
            doors = _open(config, inherited, stack)
        except (StoreError, NodeError) as error:
            raise StartError(str(error)) from error
        yield doors


def _open(
    config: ServerConfig, inherited: Sequence[InheritedSocket], stack: contextlib.ExitStack
) -> Doors:
    by_path = {one.path: one.socket for one in inherited}
    for one in inherited:
        stack.callback(one.socket.close)
    state = stack.enter_context(StateDirectory(config.state))
    secrets = {network.name: state.secret(network.name) for network in config.networks}
    leases = state.leases()
    stack.callback(leases.close)
    nodes = []
    for translator in config.translators:
        node = _node(translator, by_path.get(translator.path))
        stack.callback(node.close)
        nodes.append(node)
    guests = []
    for guest in config.guests:
        guests.append(_guest_socket(guest))
        stack.callback(guests[-1].node.close)
    vdes = []
    for vde in config.vdes:
        stack.callback(_remove_if_empty, vde.path)
        vdes.append(_vde_socket(vde))
        stack.callback(vdes[-1].node.close)
    listeners = [Listener(node.socket, node.network, str(node.path)) for node in nodes]
    if config.listen is not None:
        listener = _listen(config.listen)
        stack.callback(listener.socket.close)
        listeners.append(listener)
    uplinks = [open_uplink(uplink, stack) for uplink in config.uplinks]
    return Doors(nodes, guests, vdes, listeners, secrets, leases, uplinks)


def _node(translator: TranslatorConfig, inherited: socket.socket | None) -> Node:
    if inherited is not None:
        return Node(translator.path, translator.network, inherited)
    _make_own_folder(translator.path.parent)
    return claim_node(
        translator.path,
        translator.network,
        translator.owner,
        translator.group,
        translator.mode,
    )


def _guest_socket(guest: GuestConfig) -> GuestSocket:
    """Publish a guest's socket, as its owner's where that can be."""
    node = claim_node(
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


def _vde_socket(vde: VdeConfig) -> VdeSocket:
    """Make the folder, if it is not there, and publish its control socket."""
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


def _listen(listen: ListenConfig) -> Listener:
    label = endpoint(listen.host, listen.port)
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((listen.host, listen.port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise StartError(
            f"cannot listen on {label}: {error.strerror}; choose another port with --listen"
        ) from error
    port = sock.getsockname()[1]
    return Listener(sock, listen.network, endpoint(listen.host, port))
