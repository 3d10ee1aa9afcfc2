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
from hypervisor.store import LeaseStore, StateDirectory, StoreError, private_directory


@dataclass(frozen=True, slots=True)
class Doors:
    """What is open: nodes, listeners on them and on TCP, secrets by network, leases."""

    nodes: Sequence[Node]
    guests: Sequence[GuestSocket]
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
        return [*self.nodes, *(guest.node for guest in self.guests)]


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
    listeners = [Listener(node.socket, node.network, str(node.path)) for node in nodes]
    if config.listen is not None:
        listener = _listen(config.listen)
        stack.callback(listener.socket.close)
        listeners.append(listener)
    uplinks = [open_uplink(uplink, stack) for uplink in config.uplinks]
    return Doors(nodes, guests, listeners, secrets, leases, uplinks)


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
    owner: int | None = guest.owner
    if os.geteuid() != 0 and guest.owner != os.geteuid():
        # Only root can give it away; so others must be able to open it, and are told apart then.
        owner = None
        if not guest.mode & 0o022:
            raise StartError(
                f"uid {guest.owner}, who owns {guest.path}, could not open it with mode "
                f"{guest.mode:04o}: add mode=0666, whoever else connects is refused"
            )
    node = claim_node(
        guest.path,
        guest.network,
        owner,
        mode=guest.mode,
        flag=f"--{guest.kind}",
        datagrams=guest.kind == "dgram",
    )
    return GuestSocket(node, guest.kind, guest.owner, guest.device)


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
