"""Looking at a running server from outside: NetworkService as plain values.

This is the client side of ``hypervisor status|devices|fdb|events``. It blocks, and it turns
everything that can go wrong into one sentence (:class:`InspectError`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import grpc
from machdev.v1 import network_pb2, network_pb2_grpc

#: How long a server may take to answer a question, in seconds.
ANSWER_S = 10.0


class InspectError(Exception):
    """The server cannot be asked; the message says why and what to do."""


class Inspector:
    """A connection to the server at a node. Use it as a context manager.

    Every method raises InspectError. Values are plain dicts and lists, ready for JSON; ``network``
    of "" means every network the caller may see.
    """

    def __init__(self, node: Path) -> None:
        self._node = node
        see_node(node)
        self._channel = grpc.insecure_channel(
            f"unix:{quote(os.fspath(node))}",
            options=[("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)],
        )
        self._stub = network_pb2_grpc.NetworkServiceStub(  # type: ignore[no-untyped-call]
            self._channel
        )

    def __enter__(self) -> Inspector:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def status(self, network: str = "") -> dict[str, Any]:
        """Return the server's version, uptime, nodes, networks, and the links on them."""
        with self._explained():
            answer = self._stub.GetStatus(
                network_pb2.GetStatusRequest(network=network), timeout=ANSWER_S
            )
        devices = self.devices(network)["devices"]
        return {
            "server_version": answer.server_version,
            "uptime_s": answer.uptime_s,
            "data_path": answer.data_path,
            "writes_left_behind": answer.writes_left_behind,
            "nodes": [
                {"path": node.path, "network": node.network, "connections": node.connections}
                for node in answer.nodes
            ],
            "networks": [_network(one) for one in answer.networks],
            "links": [_link_row(one) for one in devices if one["link_status"]],
        }

    def devices(self, network: str = "") -> dict[str, Any]:
        """Return the devices the caller may see."""
        with self._explained():
            answer = self._stub.ListDevices(
                network_pb2.ListDevicesRequest(network=network), timeout=ANSWER_S
            )
        return {"devices": [_device(one) for one in answer.devices]}

    def fdb(self, network: str = "") -> dict[str, Any]:
        """Return the forwarding entries the caller may see; age_s is None for a static one."""
        with self._explained():
            answer = self._stub.ListFdbEntries(
                network_pb2.ListFdbEntriesRequest(network=network), timeout=ANSWER_S
            )
        return {"entries": [_fdb_entry(one) for one in answer.entries]}

    def leases(self, network: str = "") -> dict[str, Any]:
        """Return the addresses the caller may see, and whose they are."""
        with self._explained():
            answer = self._stub.ListLeases(
                network_pb2.ListLeasesRequest(network=network), timeout=ANSWER_S
            )
        return {"leases": [_lease(one) for one in answer.leases]}

    def release(self, address: str, network: str = "") -> dict[str, Any]:
        """End the lease of an address, and return it as it was."""
        with self._explained():
            answer = self._stub.ReleaseLease(
                network_pb2.ReleaseLeaseRequest(address=address, network=network), timeout=ANSWER_S
            )
        return _lease(answer.lease)

    def events(
        self, network: str = "", *, recent: int = 0, follow: bool = True, **which: str
    ) -> Iterator[dict[str, Any]]:
        """Yield events, and ``{"lost": n}`` where n were missed: ``recent`` ones that are recorded,
        then, to ``follow``, those that happen, for ever.

        ``which`` may name an owner, a device, a kind, a reason.
        """
        request = network_pb2.WatchEventsRequest(
            network=network, recent=recent, only_recent=not follow, **which
        )
        with self._explained():
            stream = self._stub.WatchEvents(request)
            try:
                for answer in stream:
                    yield _event(answer)
            finally:
                stream.cancel()

    def reload_policy(self) -> dict[str, Any]:
        """Have the server read its policy again, and return what came of it."""
        with self._explained():
            answer = self._stub.ReloadPolicy(network_pb2.ReloadPolicyRequest(), timeout=ANSWER_S)
        return {
            "applied": answer.applied,
            "changes": list(answer.changes),
            "unapplied": list(answer.unapplied),
            "problems": list(answer.problems),
        }

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise InspectError(self._explain(error.code(), error.details() or "")) from error

    def _explain(self, code: grpc.StatusCode, details: str) -> str:
        if code is grpc.StatusCode.UNAVAILABLE:
            return f"the server at {self._node} is stopping or gone ({details})"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"the server at {self._node} did not answer within {ANSWER_S:.0f} s"
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return f"what answers at {self._node} is not a hypervisor, or an older one ({details})"
        return details or f"the server at {self._node} answered {code.name}"


def see_node(node: Path) -> None:
    """See that somebody answers at a node, without any gRPC. Raises InspectError."""
    start = f"start one with: hypervisor serve --translator {node}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWER_S)
        try:
            probe.connect(os.fspath(node))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise InspectError(f"there is no server at {node}: {start}") from error
            if error.errno == errno.ECONNREFUSED:
                what = "nobody answers" if node.is_socket() else "that is no node"
                raise InspectError(f"there is no server at {node}, {what}: {start}") from error
            if error.errno in (errno.EACCES, errno.EPERM):
                raise InspectError(
                    f"you may not connect to {node}: ask its owner, or start your own server "
                    "with: hypervisor serve"
                ) from error
            raise InspectError(f"cannot connect to {node}: {error.strerror or error}") from error


def _drops(counts: Any) -> dict[str, int]:
    return {count.reason: count.copies for count in counts}


def _network(one: network_pb2.Network) -> dict[str, Any]:
    return {
        "name": one.name,
        "mode": one.mode,
        "guard": one.guard,
        "mtu_bytes": one.mtu_bytes,
        "subnets": list(one.subnets),
        "devices": one.devices,
        "opens": one.opens,
        "tasks": one.tasks,
        "pool_frames": one.pool_frames,
        "pool_free_frames": one.pool_free_frames,
        "pool_bytes": one.pool_bytes,
        "pool_free_bytes": one.pool_free_bytes,
        "held_reads": one.held_reads,
        "held_writes": one.held_writes,
        "frames": one.frames,
        "bytes": one.bytes,
        "copies_delivered": one.copies_delivered,
        "drops": _drops(one.drops),
        "fdb_entries": one.fdb_entries,
        "fdb_capacity": one.fdb_capacity,
    }


def _device(one: network_pb2.Device) -> dict[str, Any]:
    return {
        "network": one.network,
        "owner": one.owner,
        "name": one.name,
        "mac": one.mac_address.hex(":"),
        "addresses": list(one.addresses),
        "flags": one.flags,
        "mtu_bytes": one.mtu_bytes,
        "opens": one.opens,
        "link": one.link,
        "tx_frames": one.tx_frames,
        "tx_bytes": one.tx_bytes,
        "rx_frames": one.rx_frames,
        "rx_bytes": one.rx_bytes,
        "tx_drops": _drops(one.tx_drops),
        "rx_drops": _drops(one.rx_drops),
        "held_reads": one.held_reads,
        "held_writes": one.held_writes,
        "rx_slots_used": one.rx_slots_used,
        "stalled": one.stalled,
        "filters": one.filters,
        "filtered_frames": one.filtered_frames,
        "vlans": list(one.vlans),
        "is_tagged": one.is_tagged,
        "mirror": list(one.mirror),
        "link_status": _link(one.link_status) if one.HasField("link_status") else None,
    }


def _link(one: network_pb2.Link) -> dict[str, Any]:
    state = network_pb2.LinkState.Name(one.state)
    return {
        "kind": one.kind,
        "peer": one.peer,
        "state": state.removeprefix("LINK_STATE_").lower(),
        "detail": one.detail,
        "mtu_bytes": one.mtu_bytes,
        "offloads": list(one.offloads),
        "missed": _drops(one.missed),
        "ups": one.ups,
    }


def _link_row(device: dict[str, Any]) -> dict[str, Any]:
    """Return a link with the counters of its device; its MTU is the network's if it has none."""
    link = device["link_status"]
    shared = ("network", "owner", "name", "tx_frames", "tx_bytes", "rx_frames", "rx_bytes")
    return {
        **{key: device[key] for key in (*shared, "tx_drops", "rx_drops")},
        **link,
        "mtu_bytes": link["mtu_bytes"] or device["mtu_bytes"],
    }


def _fdb_entry(one: network_pb2.FdbEntry) -> dict[str, Any]:
    return {
        "network": one.network,
        "mac": one.mac_address.hex(":"),
        "vlan": one.vlan,
        "owner": one.owner,
        "device": one.device,
        "age_s": None if one.is_static else one.age_s,
    }


def _lease(one: network_pb2.Lease) -> dict[str, Any]:
    kind = network_pb2.LeaseKind.Name(one.kind)
    return {
        "network": one.network,
        "address": one.address,
        "owner": one.owner,
        "device": one.device,
        "mac": one.mac_address.hex(":"),
        "kind": kind.removeprefix("LEASE_KIND_").lower(),
        "in_use": one.in_use,
        "expires_in_s": one.expires_in_s.value if one.HasField("expires_in_s") else None,
        "unused_for_s": one.unused_for_s.value if one.HasField("unused_for_s") else None,
    }


def _event(answer: network_pb2.WatchEventsResponse) -> dict[str, Any]:
    if answer.WhichOneof("payload") == "lost":
        return {"lost": answer.lost.events}
    event = answer.event
    return {
        "unix_time_s": event.unix_time_s,
        "network": event.network,
        "kind": event.kind,
        "owner": event.owner,
        "device": event.device,
        "detail": event.detail,
        "repetitions": event.repetitions,
        "discard": _discard(event.discard) if event.HasField("discard") else None,
    }


def _discard(one: network_pb2.Discard) -> dict[str, str]:
    return {
        "reason": one.reason,
        "frame": one.frame,
        "field": one.field,
        "found": one.found,
        "expected": one.expected,
    }
