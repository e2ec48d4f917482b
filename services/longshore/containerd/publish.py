"""``containerd --address SOCKET publish --topic T --namespace N``: an event from a program that speaks no gRPC.

Shims of old call this, with a serialised Any on stdin. It stays for them.
"""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from longshore.api import errors, namespaces
from longshore.api.services.events.v1.events_pb2 import PublishRequest
from longshore.api.services.events.v1.events_pb2_grpc import EventsStub

TIMEOUT_SECONDS = 5.0


def publish(address: str, namespace: str, topic: str, payload: bytes) -> None:
    """Publish one event. Raises errors.Error: what the daemon answered, or that the payload is no Any."""
    try:
        event = Any.FromString(payload)
    except DecodeError as error:
        raise errors.InvalidArgument(f"stdin is not a serialised Any: {errors.undecodable(error)}") from None
    headers = ((namespaces.GRPC_HEADER, namespace),)
    with grpc.insecure_channel(f"unix:{address}") as channel:
        try:
            EventsStub(channel).Publish(
                PublishRequest(topic=topic, event=event), metadata=headers, timeout=TIMEOUT_SECONDS
            )
        except grpc.RpcError as error:
            raise errors.from_code(error.code().value[0], error.details() or str(error)) from None
