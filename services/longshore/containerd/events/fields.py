"""What a filter sees of an event: namespace, topic, and ``event.<path>`` into the decoded message.

As in containerd, text is present when it isn't empty, numbers are never
present, and ``labels`` takes the rest of the path as one key.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

# Imported for their effect: what stands in the descriptor pool can be decoded.
from longshore.api.events import (  # noqa: F401
    container_pb2,
    content_pb2,
    image_pb2,
    namespace_pb2,
    sandbox_pb2,
    snapshot_pb2,
    task_pb2,
)
from longshore.api.typeurls import type_name
from longshore.containerd.filters import Lookup
from longshore.containerd.metadata.store import Event


def lookup(event: Event) -> Lookup:
    """The fields of an event; its payload is decoded only when a filter asks for it."""

    def find(path: Sequence[str]) -> str | None:
        match path:
            case ["namespace"]:
                return event.namespace or None
            case ["topic"]:
                return event.topic or None
            case ["event", *rest] if rest:
                return _in_any(event.event, rest)
            case _:
                return None

    return find


def _in_any(packed: Any, path: Sequence[str]) -> str | None:
    message = decoded(packed)
    return None if message is None else _in_message(message, path)


def decoded(packed: Any) -> Message | None:
    """The message inside, None if its type is unknown or its bytes are damaged."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(type_name(packed))
        message = message_factory.GetMessageClass(descriptor)()
        message.ParseFromString(packed.value)
    except (KeyError, DecodeError):
        return None
    return message


def _in_message(message: Message, path: Sequence[str]) -> str | None:
    field = message.DESCRIPTOR.fields_by_name.get(path[0])
    if field is None:
        return None
    value = getattr(message, field.name)
    if field.name == "labels":
        return dict(value).get(".".join(path[1:]))
    if field.is_repeated:
        return None
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE if len(path) > 1:
            return _in_any(value, path[1:]) if isinstance(value, Any) else _in_message(value, path[1:])
        case FieldDescriptor.CPPTYPE_STRING:
            return (value if isinstance(value, str) else value.decode("utf-8", "replace")) or None
        case FieldDescriptor.CPPTYPE_BOOL:
            return "true" if value else "false"
        case _:
            return None
