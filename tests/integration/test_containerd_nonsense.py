"""Random requests to every unary call of the metadata services: the caller is blamed, and the daemon lives."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from longshore.api.services.containers.v1 import containers_pb2
from longshore.api.services.events.v1 import events_pb2
from longshore.api.services.images.v1 import images_pb2
from longshore.api.services.introspection.v1 import introspection_pb2
from longshore.api.services.leases.v1 import leases_pb2
from longshore.api.services.namespaces.v1 import namespace_pb2
from longshore.api.services.version.v1 import version_pb2
from support import soak
from support.daemon import Longshore

FILES = (containers_pb2, events_pb2, images_pb2, introspection_pb2, leases_pb2, namespace_pb2, version_pb2)
COUNT = soak.times(60, 2000)

# What values are made of: what services look at, what breaks naive ones.
TEXTS: tuple[str, ...] = (
    "",
    "a",
    "a/b",
    "..",
    "/etc/passwd",
    "\0",
    "é" * 40,
    "x" * 5000,
    "sha256:" + "a" * 64,
    "\u202e",
)
TEXTS += ("labels.x", "labels", "id==", "id~=(", "containerd.io/gc.expire", "snapshots/overlayfs", "content")
TEXTS += ("' OR 1=1 --",)
NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31))


def _methods() -> list[MethodDescriptor]:
    services = [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]
    return [method for service in services for method in service.methods if not method.server_streaming]


def _random_message(message: Message, random: random.Random, depth: int = 0) -> Message:
    """Fill about half of the fields with something awkward."""
    for field in message.DESCRIPTOR.fields:
        if random.random() < 0.4:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(getattr(message, field.name), random)
        elif field.is_repeated:
            for _ in range(random.randrange(3)):
                if field.message_type is None:
                    getattr(message, field.name).append(_random_value(field, random))
                else:
                    _random_message(getattr(message, field.name).add(), random, depth + 1)
        elif field.message_type is not None:
            if depth < 4:
                getattr(message, field.name).SetInParent()
                _random_message(getattr(message, field.name), random, depth + 1)
        else:
            setattr(message, field.name, _random_value(field, random))
    return message


def _fill_map(mapping: Any, random: random.Random) -> None:
    for _ in range(random.randrange(3)):
        key = random.choice(TEXTS)
        try:
            mapping[key] = random.choice(TEXTS)
        except (TypeError, ValueError):
            mapping[key].type_url = random.choice(TEXTS)


def _random_value(field: Any, random: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            text = random.choice(TEXTS)
            return text if field.type == FieldDescriptor.TYPE_STRING else text.encode()
        case FieldDescriptor.CPPTYPE_BOOL:
            return random.random() < 0.5
        case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
            return abs(random.choice(NUMBERS))
        case _:
            return random.choice(NUMBERS)


def _damaged(data: bytes, random: random.Random) -> bytes:
    broken = bytearray(data or b"\x0a")
    for _ in range(random.randrange(1, 4)):
        broken[random.randrange(len(broken))] = random.randrange(256)
    return bytes(broken[: random.randrange(len(broken)) + 1])


@pytest.mark.parametrize("seed", range(2))
async def test_random_requests(seed: int) -> None:
    source = random.Random(seed)
    with Longshore() as daemon:
        async with grpc.aio.insecure_channel(f"unix:{daemon.address}") as channel:
            for method in _methods():
                path = f"/{method.containing_service.full_name}/{method.name}"
                request = message_factory.GetMessageClass(method.input_type)
                payloads = [_random_message(request(), source).SerializeToString() for _ in range(COUNT)]
                payloads += [_damaged(payload, source) for payload in payloads]
                codes = await asyncio.gather(*(_code(channel, path, payload, source) for payload in payloads))
                assert grpc.StatusCode.UNKNOWN not in codes, path
        assert daemon.go_ctr("version").returncode == 0
        assert "unexpected error" not in daemon.log.read_text()


async def _code(
    channel: grpc.aio.Channel, path: str, payload: bytes, source: random.Random
) -> grpc.StatusCode:
    call: Any = channel.unary_unary(path)
    namespace = source.choice(("test", "test", "other", "bad name", ""))
    try:
        await call(payload, metadata=(("containerd-namespace", namespace),), timeout=120)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
