"""`grpc.health.v1.Health`: whether this replica is ready, as `/health/ready` says it."""

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.protocols.open_inference_grpc.rpc import SERVICE, Context
from service.versions.registry import Registry

POLL_SECONDS: Final = 1.0
_SERVICES: Final = frozenset({"", SERVICE})


class ReadinessServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """Answers for the server (an empty name) and for the inference service."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"unknown service; expected {SERVICE} or no name"
            )
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """Send the status now and after each change, until the client leaves."""
        sent: Any = None
        while True:
            status = self._status(request.service)
            if status != sent:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                sent = status
            await asyncio.sleep(POLL_SECONDS)

    def _status(self, service: str) -> Any:
        if service not in _SERVICES:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        if self._registry.service_ready:
            return health_pb2.HealthCheckResponse.SERVING
        return health_pb2.HealthCheckResponse.NOT_SERVING
