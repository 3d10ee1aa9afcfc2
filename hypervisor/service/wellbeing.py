"""Health checking (grpc.health.v1): the door must know who asks, as for any call."""

from __future__ import annotations

from grpc_health.v1 import health, health_pb2

from hypervisor.service.identity import Peers
from hypervisor.service.status import Context, answers


class Wellbeing(health.aio.HealthServicer):  # type: ignore[misc]
    """The standard servicer, behind the question who asks."""

    def __init__(self, peers: Peers) -> None:
        super().__init__()
        self._peers = peers

    @answers
    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Return how a service is."""
        self._peers.behind(context)
        return await super().Check(request, context)

    @answers
    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """Stream how a service is, at each change."""
        self._peers.behind(context)
        await super().Watch(request, context)
