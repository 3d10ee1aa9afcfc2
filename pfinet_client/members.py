"""Who is on the network of a device: for a gateway, which gives addresses and names.

A device that policy calls a DHCP server is told of everybody, any other of its owner's own devices
(WatchMembers in ``machdev/v1/network.proto``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from machdev.v1 import network_pb2, network_pb2_grpc

from pfinet_client.errors import from_rpc, unavailable

if TYPE_CHECKING:
    from pfinet_client.client import Client


@dataclass(frozen=True, slots=True)
class Picture:
    """Who is there at one moment, ``everybody`` or only the owner's own devices.

    ``taken`` are addresses that are somebody's. The asking device ``routes`` and ``serves`` (DHCP)
    if the server's policy lets it.
    """

    members: tuple[network_pb2.Member, ...]
    taken: tuple[str, ...]
    everybody: bool
    routes: bool
    serves: bool


async def follow_members(client: Client, port: bytes) -> AsyncGenerator[Picture, None]:
    """Yield who is on the network of the device behind ``port`` now, and whenever it changes.

    Raises InvalidDest when the port is dead, NoMemory for too many such calls, ServerDied and
    ServerUnavailable when the server goes.
    """
    stub: Any = network_pb2_grpc.NetworkServiceStub  # generated without annotations
    request = network_pb2.WatchMembersRequest(port=port)
    stream = stub(client.channel).WatchMembers(request, metadata=client.metadata)
    members: list[network_pb2.Member] = []
    taken: list[str] = []
    try:
        async for part in stream:
            members += part.members
            taken += part.taken
            if part.is_complete:
                yield Picture(
                    tuple(members), tuple(taken), part.is_everybody, part.may_route, part.may_serve
                )
                members, taken = [], []
        raise unavailable(client.target, "the server ended the call")
    except grpc.RpcError as error:
        raise from_rpc(error, client.target) from None
    finally:
        stream.cancel()
