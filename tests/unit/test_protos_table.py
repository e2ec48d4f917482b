"""Every compiled descriptor against the API table: names, numbers and types are the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

PROJECT = Path(__file__).resolve().parents[2]
API = PROJECT / "protos" / "longshore" / "api"
TABLE = json.loads((PROJECT / "tests" / "data" / "containerd-api.json").read_text())
EXTRA_FILES = {
    "cgroups1/metrics.proto": "cgroups/v1/metrics.proto",
    "cgroups2/metrics.proto": "cgroups/v2/metrics.proto",
    "ttrpc_request.proto": "ttrpc/request.proto",
}
OUR_OWN = {"services/exits/v1/exits.proto", "services/gc/v1/gc.proto"}

Fields = dict[str, tuple[Any, ...]]


def table_messages() -> dict[str, dict[str, Any]]:
    """Full name -> message of the table; grpc.health is left to its own package."""
    found = dict(TABLE["messages"])
    for name in ("cgroups1", "cgroups2", "ttrpc"):
        for message, entry in TABLE["extra"][name]["messages"].items():
            found[message] = entry | {"file": EXTRA_FILES[entry["file"]]}
    return found


MESSAGES = table_messages()
FILES = sorted(
    {entry["file"] for kind in (MESSAGES, TABLE["enums"], TABLE["services"]) for entry in kind.values()}
)


def compiled(file: str) -> FileDescriptor:
    module = import_module("longshore.api." + file.removesuffix(".proto").replace("/", ".") + "_pb2")
    descriptor: FileDescriptor = module.DESCRIPTOR
    return descriptor


def all_messages(file: FileDescriptor) -> Iterator[Descriptor]:
    """Top-level and nested messages, without the entries that a map stands for."""
    waiting = list(file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        if not message.GetOptions().map_entry:
            yield message
            waiting += message.nested_types


def type_name(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return str(field.message_type.full_name)
    if field.enum_type is not None:
        return str(field.enum_type.full_name)
    kinds = {
        number: name.removeprefix("TYPE_").lower()
        for name, number in vars(FieldDescriptor).items()
        if name.startswith("TYPE_")
    }
    return kinds[field.type]


def compiled_field(field: FieldDescriptor) -> tuple[Any, ...]:
    deprecated = field.GetOptions().deprecated
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return field.number, "map", type_name(key), type_name(value), deprecated
    label = "repeated" if field.is_repeated else "singular"
    if (
        field.containing_oneof is not None
    ):  # how protoc spells a proto3 `optional`; the table holds no real oneof
        label = "optional"
    return field.number, label, type_name(field), deprecated


def table_field(field: dict[str, Any]) -> tuple[Any, ...]:
    deprecated = field.get("deprecated", False)
    if field["label"] == "map":
        return field["number"], "map", field["key"], field["value"], deprecated
    return field["number"], field["label"], field["type"], deprecated


@pytest.mark.parametrize("file", FILES)
def test_messages_are_those_of_the_table(file: str) -> None:
    ours = {
        str(message.full_name): {field.name: compiled_field(field) for field in message.fields}
        for message in all_messages(compiled(file))
    }
    theirs: dict[str, Fields] = {
        name: {field["name"]: table_field(field) for field in entry["fields"]}
        for name, entry in MESSAGES.items()
        if entry["file"] == file
    }
    assert ours == theirs


@pytest.mark.parametrize("file", FILES)
def test_enums_are_those_of_the_table(file: str) -> None:
    descriptor = compiled(file)
    enums = [*descriptor.enum_types_by_name.values()]
    enums += [enum for message in all_messages(descriptor) for enum in message.enum_types]
    ours = {enum.full_name: {value.name: value.number for value in enum.values} for enum in enums}
    assert ours == {name: entry["values"] for name, entry in TABLE["enums"].items() if entry["file"] == file}


@pytest.mark.parametrize("file", FILES)
def test_services_are_those_of_the_table(file: str) -> None:
    ours = {
        service.full_name: {
            method.name: (
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
            for method in service.methods
        }
        for service in compiled(file).services_by_name.values()
    }
    theirs = {
        name: {
            rpc: (entry["request"], entry["response"], entry["client_streaming"], entry["server_streaming"])
            for rpc, entry in service["rpcs"].items()
        }
        for name, service in TABLE["services"].items()
        if service["file"] == file
    }
    assert ours == theirs


def test_no_file_beside_the_table_but_our_exit_stream() -> None:
    ours = {str(path.relative_to(API)) for path in API.rglob("*.proto")}
    assert ours == {*FILES, *OUR_OWN}


def test_the_table_is_complete() -> None:
    """16 services with 88 rpcs on containerd's gRPC socket, 4 with 44 on ttrpc; health comes from its package."""
    counts = {"grpc": [0, 0], "ttrpc": [0, 0]}
    for service in TABLE["services"].values():
        count = counts[service["transport"].partition(" ")[0]]
        count[0] += 1
        count[1] += len(service["rpcs"])
    assert counts == {"grpc": [16, 88], "ttrpc": [4, 44]}
