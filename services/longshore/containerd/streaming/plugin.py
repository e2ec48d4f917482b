"""Builds the streams and their service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longshore.api.services.streaming.v1.streaming_pb2_grpc import add_StreamingServicer_to_server
from longshore.containerd.streaming.service import StreamingService
from longshore.containerd.streaming.streams import Streams

if TYPE_CHECKING:
    from longshore.containerd.builtins import Kit


def build(kit: Kit) -> None:
    kit.streams = Streams()
    kit.on_stop.append(kit.streams.close_all)
    kit.tied.append(kit.streams)


def build_service(kit: Kit) -> None:
    add_StreamingServicer_to_server(StreamingService(kit.streams), kit.server)  # type: ignore[arg-type]
