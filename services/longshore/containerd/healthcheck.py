"""The health service, with the answers of Go's where grpcio's has none of its own."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1.health import aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListResponse  # type: ignore[attr-defined]


class Health(aio.HealthServicer):
    """Knows one service, "": the whole daemon."""

    async def Check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:
        if request.service:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        answer: HealthCheckResponse = await super().Check(request, context)
        return answer

    async def List(self, _request: Any, context: Any) -> HealthListResponse:
        return HealthListResponse(statuses={"": await super().Check(HealthCheckRequest(), context)})
