"""The ttrpc twin of the gRPC socket: where Go shims forward their events.

One service, one method: containerd.services.events.ttrpc.v1.Events/Forward. A
shim that gets an error, or no answer within 5 s, tries again up to five times;
the journal drops the exits that it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from google.protobuf.empty_pb2 import Empty

from longshore.api.services.ttrpc.events.v1.events_pb2 import ForwardRequest
from longshore.api.types.event_pb2 import Envelope
from longshore.ttrpc.aio import Method, Services

SERVICE = "containerd.services.events.ttrpc.v1.Events"


class Journal(Protocol):
    """What the service needs of `longshore.containerd.tasks.journal.Journal`."""

    async def forward(self, envelope: Envelope) -> None:
        """Journal an event; return when durable. Raises InvalidArgument for a malformed envelope."""


def services(journal: Journal) -> Services:
    """What the twin socket serves."""

    async def forward(request: ForwardRequest, metadata: Mapping[str, Sequence[str]]) -> Empty:
        # Shielded: a shim that hangs up while we write has told us all the same.
        await asyncio.shield(journal.forward(request.envelope))
        return Empty()

    return {SERVICE: {"Forward": Method(ForwardRequest, forward)}}
