"""A gRPC subscriber, for what `ctr events` can't say: same filters again, replay from a sequence."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import grpc

from longshore.api.events import task_pb2
from longshore.api.services.events.v1 import events_pb2, events_pb2_grpc
from longshore.api.types import event_pb2
from support.process import eventually


class Exit(NamedTuple):
    container: str
    process: str
    status: int


class Subscription:
    """``with Subscription(address, filters) as events:`` collects envelopes until it is closed or the daemon dies."""

    def __init__(self, address: Path, filters: Sequence[str] = (), *, since: int | None = None) -> None:
        self._request = events_pb2.SubscribeRequest(filters=filters)
        self._metadata = () if since is None else (("longshore-since-sequence", str(since)),)
        self._address = address
        self.envelopes: list[event_pb2.Envelope] = []
        self.sequence = 0

    def __enter__(self) -> Subscription:
        self._channel = grpc.insecure_channel(f"unix:{self._address}")
        stub = events_pb2_grpc.EventsStub(self._channel)
        self._call: Any = stub.Subscribe(self._request, metadata=self._metadata)
        # The daemon sends its headers once the subscription stands.
        headers = dict(self._call.initial_metadata())
        self.sequence = int(headers.get("longshore-sequence", 0))
        self._reader = threading.Thread(target=self._collect)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()
        self._reader.join()
        self._channel.close()

    def _collect(self) -> None:
        try:
            for envelope in self._call:
                self.envelopes.append(envelope)
        except grpc.RpcError:
            pass  # cancelled by us, or the daemon was killed: what came before counts

    def exits(self) -> list[Exit]:
        """The /tasks/exit events so far, in their order."""
        found = []
        for envelope in list(self.envelopes):
            if envelope.topic == "/tasks/exit":
                event = task_pb2.TaskExit.FromString(envelope.event.value)
                found.append(Exit(event.container_id, event.id, event.exit_status))
        return found

    def until_heard(self, expected: Iterable[Exit], within: float = 60) -> None:
        """Return once every one of `expected` has been seen."""
        wanted = set(expected)
        eventually(lambda: wanted <= set(self.exits()), within, f"the subscriber has heard of {wanted}")
