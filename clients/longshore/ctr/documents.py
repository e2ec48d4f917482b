"""Messages as JSON, with the names of the protocol.

protobuf's own converter must know every type inside an Any; a daemon may send
any. Ours leaves such a payload as it is, and numbers numbers.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from longshore.ctr.tables import rfc3339

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

ANY = "google.protobuf.Any"
TIMESTAMP = "google.protobuf.Timestamp"


def document(message: Message) -> dict[str, Any]:
    """The fields that are set."""
    return {field.name: _value(field, value) for field, value in message.ListFields()}


def _value(field: FieldDescriptor, value: Any) -> Any:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        inner = kind.fields_by_name["value"]
        return {str(key): _single(inner, value[key]) for key in sorted(value)}
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if field.enum_type is not None:
        found = field.enum_type.values_by_number.get(value)
        return found.name if found is not None else value
    if field.message_type is None:
        return value
    if field.message_type.full_name == TIMESTAMP:
        return rfc3339(value)
    return document(value)
