"""What a shim is told when it is started, and what it answers.

Three generations of answers exist, all accepted: a serialized BootstrapResult
(containerd 2.3), JSON (1.7) and a bare address line (1.6). JSON opens with
``{``, a serialized result with a byte below 0x30 (its fields have numbers 1 to
5), an address with a letter: the first byte tells them apart.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from longshore.api.errors import InvalidArgument, Unimplemented
from longshore.api.runtime.bootstrap.v1 import bootstrap_pb2
from longshore.api.runtime.bootstrap.v1.bootstrap_pb2 import BootstrapParams, BootstrapResult

NEWEST_VERSION = 3
_LEVELS = {
    "trace": bootstrap_pb2.LOG_LEVEL_TRACE,
    "debug": bootstrap_pb2.LOG_LEVEL_DEBUG,
    "info": bootstrap_pb2.LOG_LEVEL_INFO,
    "warn": bootstrap_pb2.LOG_LEVEL_WARN,
    "error": bootstrap_pb2.LOG_LEVEL_ERROR,
    "fatal": bootstrap_pb2.LOG_LEVEL_FATAL,
    "panic": bootstrap_pb2.LOG_LEVEL_PANIC,
}


class Bootstrap(NamedTuple):
    """How to reach a shim. `version` 2 is containerd.task.v2.Task, 3 is containerd.task.v3.Task.

    `journal` is our own: the journal's newest sequence before the shim was
    there, so that what follows is about this container and no earlier one of
    its name; -1 when nobody noted it.
    """

    version: int
    address: str
    protocol: str
    journal: int = -1


def parse_answer(output: bytes) -> Bootstrap:
    """Decode what a shim's ``start`` printed.

    Raises InvalidArgument for what is no answer, Unimplemented for a version or
    protocol newer than we speak.
    """
    text = output.strip()
    if not text:
        raise InvalidArgument("shim start: no answer: invalid argument")
    if text.startswith(b"{"):
        return parse_json(text)
    result = _protobuf(output)
    if result is not None:
        return _checked(Bootstrap(result.version, result.address, result.protocol or "ttrpc"))
    return _checked(Bootstrap(2, _address(text), "ttrpc"))


def parse_json(text: bytes) -> Bootstrap:
    """Decode the JSON form, which is also that of the file bootstrap.json."""
    try:
        fields = json.loads(text)
        return _checked(
            Bootstrap(
                int(fields["version"]),
                str(fields["address"]),
                str(fields.get("protocol") or "ttrpc"),
                int(fields.get("journal", -1)),
            )
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"shim bootstrap {text[:200]!r}: {error}: invalid argument") from None


def params(
    *,
    namespace: str,
    id: str,
    log_level: str,
    containerd_version: str,
    grpc_address: str,
    ttrpc_address: str,
    containerd_binary: str,
    socket_dir: str,
    options: Any | None,
) -> bytes:
    """The standard input of a 2.3 shim's ``start``."""
    message = BootstrapParams(
        instance_id=id,
        namespace=namespace,
        log_level=_LEVELS.get(log_level, bootstrap_pb2.LOG_LEVEL_INFO),
        containerd_version=containerd_version,
        containerd_ttrpc_address=ttrpc_address,
        containerd_grpc_address=grpc_address,
        containerd_binary=containerd_binary,
    )
    if socket_dir:
        message.socket_dir = socket_dir
    if options is not None and options.type_url:
        message.extensions.add().value.CopyFrom(options)
    return message.SerializeToString()


def _protobuf(output: bytes) -> BootstrapResult | None:
    """The answer as BootstrapResult, None if it is none (without an address it is none)."""
    if output[0] >= 0x30:
        return None
    try:
        result = BootstrapResult.FromString(output)
    except DecodeError:
        return None
    return result if result.address else None


def _address(text: bytes) -> str:
    """A bare address line. A shim that prints anything else with it is broken; show what it printed."""
    try:
        address = text.decode("ascii")
    except UnicodeDecodeError:
        address = ""
    if not address or any(character.isspace() for character in address):
        raise InvalidArgument(f"shim start: cannot parse the answer {text[:500]!r}: invalid argument")
    return address


def _checked(bootstrap: Bootstrap) -> Bootstrap:
    if not 2 <= bootstrap.version <= NEWEST_VERSION:
        raise Unimplemented(f"unsupported shim version ({bootstrap.version}): not implemented")
    if bootstrap.protocol != "ttrpc":
        raise Unimplemented(f"unsupported shim protocol {bootstrap.protocol!r}: not implemented")
    if not bootstrap.address:
        raise InvalidArgument("shim bootstrap: no address: invalid argument")
    return bootstrap
