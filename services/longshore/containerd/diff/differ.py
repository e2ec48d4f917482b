"""What a differ is: the two calls of the Diff service. Implementations: `service` here, `proxies.diff`."""

from __future__ import annotations

from typing import Protocol

from longshore.api.services.diff.v1.diff_pb2 import ApplyRequest, ApplyResponse, DiffRequest, DiffResponse
from longshore.containerd.scope import Scope


class Differ(Protocol):
    """Unimplemented, for what it doesn't know, lets the next one try. Other errors are final."""

    async def apply(self, scope: Scope, request: ApplyRequest) -> ApplyResponse:
        """A layer into mounts."""

    async def compare(self, scope: Scope, request: DiffRequest) -> DiffResponse:
        """The difference of two mounts into a blob."""
