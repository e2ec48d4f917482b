"""Requests nobody would send: random messages for any method, and damaged bytes of them."""

from __future__ import annotations

import importlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

import longshore.api.services as services

# What daemons look at, and what breaks naive ones. No path that a mount or a removal could hurt.
TEXTS: Sequence[str] = (
    *("", "a", "a/b", "..", "\0", "é" * 40, "x" * 5000, "\u202e", "-", "%s{}", "' OR 1=1 --", "\ud7ff\n"),
    *("sha256:" + "a" * 64, "sha256:", "overlayfs", "native", "io.containerd.runc.v2", "shim", "walking"),
    *("labels.x", "labels", "id==", "id~=(", 'name~="("', "containerd.io/gc.expire", "containerd.io/gc.root"),
    *("content", "snapshots/overlayfs", "ingests", "leases", "/tasks/exit", "a.b", "99999999999999999999"),
    *("application/vnd.oci.image.layer.v1.tar+gzip", "containerd.types.transfer.ImageStore"),
    *("containerd.services.streaming.v1.StreamInit", "containerd.types.transfer.ImageImportStream"),
)
NUMBERS = (0, 1, -1, 7, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**64 - 1)
_DEEPEST = 4


def methods() -> list[MethodDescriptor]:
    """Of every gRPC service in the API; those that shims serve by ttrpc aside."""
    found: dict[str, MethodDescriptor] = {}
    tops = [Path(place) for place in services.__path__]
    for top, path in [(place, path) for place in tops for path in place.rglob("*_pb2.py")]:
        words = path.relative_to(top).with_suffix("").parts
        if "ttrpc" not in words:
            file = importlib.import_module(".".join(("longshore.api.services", *words))).DESCRIPTOR
            for service in file.services_by_name.values():
                found |= {method.full_name: method for method in service.methods}
    return [found[name] for name in sorted(found)]


def request(method: MethodDescriptor, chance: random.Random) -> bytes:
    """One request, whole or damaged."""
    message = message_factory.GetMessageClass(method.input_type)()
    data = _filled(message, chance).SerializeToString()
    return data if chance.random() < 0.7 else mutated(data, chance)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, removed, doubled, or cut off."""
    changed = bytearray(data or b"\x0a\x01a")
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(changed)) if changed else 0
        match chance.randrange(4):
            case 0 if changed:
                changed[place] = chance.randrange(256)
            case 1 if changed:
                del changed[place]
            case 2:
                changed[place:place] = changed[place : place + chance.randrange(1, 9)]
            case _:
                del changed[place + 1 :]
    return bytes(changed)


def _filled(message: Message, chance: random.Random, depth: int = 0) -> Message:
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.35:
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(value, chance)
        elif field.is_repeated:
            for _ in range(chance.randrange(3)):
                if field.message_type is None:
                    value.append(_value(field, chance))
                elif depth < _DEEPEST:
                    _filled(value.add(), chance, depth + 1)
        elif field.message_type is not None:
            if depth < _DEEPEST:
                value.SetInParent()
                _filled(value, chance, depth + 1)
        else:
            setattr(message, field.name, _value(field, chance))
    return message


def _fill_map(mapping: Any, chance: random.Random) -> None:
    for _ in range(chance.randrange(3)):
        key = chance.choice(TEXTS)
        try:
            mapping[key] = chance.choice(TEXTS)
        except (TypeError, ValueError):
            mapping[key].type_url = chance.choice(TEXTS)


def _value(field: Any, chance: random.Random) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = chance.choice(TEXTS)
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return chance.choice((0, 1, 2, 3, 99))
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return chance.random()
    low, high = _RANGES[kind]
    return min(max(chance.choice(NUMBERS), low), high)


_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
