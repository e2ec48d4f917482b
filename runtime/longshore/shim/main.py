"""``containerd-shim-longshore-v1``: the command line every containerd knows its shims by.

    -namespace NS -address GRPC_SOCKET -publish-binary PATH -id ID [-debug] start
    -namespace NS -address GRPC_SOCKET -id ID -bundle PATH delete
    -info                                                        (runtime options on standard input)
    -v

Go's flags: one dash or two, ``-flag value`` or ``-flag=value``. On success
`start` writes its answer to stdout and nothing else anywhere.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import NoReturn

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from longshore.api import release, typeurls
from longshore.api.errors import Error
from longshore.api.runtime.bootstrap.v1.bootstrap_pb2 import BootstrapParams, BootstrapResult
from longshore.api.runtime.task.v3.shim_pb2 import DeleteResponse
from longshore.api.types.introspection_pb2 import RuntimeInfo
from longshore.linux import seal
from longshore.shim import remove, runtime, start
from longshore.zygote import place

NAME = "io.containerd.longshore.v1"
BOOLEANS = frozenset({"debug", "v", "version", "info"})
STRINGS = frozenset({"namespace", "address", "publish-binary", "id", "bundle", "socket"})
DEFAULT_SOCKET_DIR = "/run/containerd/s"
PROTOCOL = "ttrpc"
EXITS_ADDRESS = "LONGSHORE_EXITS_ADDRESS"
_STDIN_LIMIT = 16 << 20


class Arguments:
    """Flags by name ("" when not given), and the words after them."""

    def __init__(self, flags: dict[str, str], words: list[str]) -> None:
        self._flags = flags
        self.words = words

    def __getitem__(self, name: str) -> str:
        return self._flags.get(name, "")


class UsageError(Error):
    """The command line is wrong."""


def main() -> int:
    """Run the command; 0 on success, 1 with the reason on stderr."""
    try:
        arguments = parse(sys.argv[1:])
        return _run(arguments)
    except (Error, OSError) as error:
        message = error.message if isinstance(error, Error) else str(error)
        print(f"containerd-shim-longshore-v1: {message}", file=sys.stderr)
        return 1


def parse(words: list[str]) -> Arguments:
    """Parse Go's style of flags, which end at the first word without a dash. Raises UsageError."""
    flags: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        name, has_value, value = rest.pop(0).lstrip("-").partition("=")
        if name in BOOLEANS:
            flags[name] = value if has_value else "true"
        elif name not in STRINGS:
            raise UsageError(f"flag provided but not defined: -{name}")
        elif has_value:
            flags[name] = value
        elif rest:
            flags[name] = rest.pop(0)
        else:
            raise UsageError(f"flag needs an argument: -{name}")
    return Arguments(flags, rest)


def _run(arguments: Arguments) -> int:
    if arguments["v"] or arguments["version"]:
        print(f"containerd-shim-longshore-v1:\n  Version:  {release.VERSION}")
        return 0
    if arguments["info"]:
        given = b"" if sys.stdin.isatty() else sys.stdin.buffer.read(_STDIN_LIMIT)
        _write(info(given).SerializeToString())
        return 0
    if not arguments["namespace"]:
        raise UsageError("shim namespace cannot be empty")
    commands = {"start": _start, "delete": _delete}
    word = arguments.words[0] if arguments.words else ""
    if word not in commands:
        raise UsageError(f"unknown command {word!r}: start and delete are known")
    # Both enter containers, or fork what does: a container sees their executable.
    seal.ensure()
    commands[word](arguments)
    return 0


# start


def _start(arguments: Arguments) -> None:
    bundle = os.getcwd()
    params = _bootstrap(sys.stdin.buffer.read(_STDIN_LIMIT), arguments)
    parameters = start.Parameters(
        namespace=arguments["namespace"],
        id=arguments["id"],
        bundle=bundle,
        address=arguments["address"],
        ttrpc_address=os.environ.get("TTRPC_ADDRESS", ""),
        exits_address=os.environ.get(EXITS_ADDRESS, ""),
    )
    socket_dir = params.socket_dir if params is not None else ""
    address = _fork(parameters, socket_dir or DEFAULT_SOCKET_DIR)
    with open(f"{bundle}/address", "w") as file:
        # 1.6 finds its shims again by this file; later daemons write one of their own.
        file.write(address)
    _write(answer(address, params, dict(os.environ)))


def _bootstrap(data: bytes, arguments: Arguments) -> BootstrapParams | None:
    """The parameters of 2.3 and later; None for the bare options of earlier daemons.

    Both are messages whose first fields are strings, so one parses as the
    other: it is ours to check that the ids are those of the command line.
    """
    try:
        params = BootstrapParams.FromString(data)
    except DecodeError:
        return None
    named = (params.instance_id, params.namespace) == (arguments["id"], arguments["namespace"])
    return params if named else None


def answer(address: str, params: BootstrapParams | None, environment: dict[str, str]) -> bytes:
    """What `start` prints, in the form that this daemon reads.

    2.3 and later read protobuf, those from 1.7 JSON (1.7 takes version 2
    only, and nothing tells it from 2.0), 1.6 a bare address.
    """
    if params is not None:
        return BootstrapResult(version=3, address=address, protocol=PROTOCOL).SerializeToString()
    if EXITS_ADDRESS in environment:
        return json.dumps({"version": 3, "address": address, "protocol": PROTOCOL}).encode()
    if "GRPC_ADDRESS" in environment:
        return json.dumps({"version": 2, "address": address, "protocol": PROTOCOL}).encode()
    return address.encode()


def _fork(parameters: start.Parameters, socket_dir: str) -> str:
    """Fork the shim; its address once it listens. Raises Error with its reason when it can't."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        _become(parameters, socket_dir, theirs)
    theirs.close()
    reply = b""
    while part := ours.recv(4096):
        reply += part
    if not reply.startswith(b"+"):
        raise Error(reply[1:].decode() or "the shim ended before it was ready")
    return reply[1:].decode()


def _become(parameters: start.Parameters, socket_dir: str, reply: socket.socket) -> NoReturn:
    try:
        os.setsid()
        found = place.settle(
            socket_dir, parameters.address, parameters.namespace, parameters.id, parameters.bundle
        )
        reply.sendall(b"+" + found.address.encode())
    except BaseException as error:
        reply.sendall(b"-" + (str(error) or type(error).__name__).encode())
        os._exit(1)
    reply.close()
    if found.listener is None:
        os._exit(0)
    if found.lock >= 0:
        os.close(found.lock)
    start.serve(found.listener, parameters)


# delete, info


def _delete(arguments: Arguments) -> None:
    bundle = arguments["bundle"] or os.getcwd()
    removed = remove.clean(arguments["namespace"], arguments["id"], bundle)
    response = DeleteResponse(pid=removed.pid, exit_status=removed.exit_status)
    response.exited_at.FromNanoseconds(removed.exited_at)
    _write(response.SerializeToString())


def info(given: bytes = b"") -> RuntimeInfo:
    """What PluginInfo shows of this runtime with these options (an Any, from standard input; they are echoed)."""
    try:
        options = AnyMessage.FromString(given)
    except DecodeError:
        raise UsageError("standard input holds no runtime options") from None
    settings = runtime.settings_from(options)
    found = RuntimeInfo(name=NAME)
    found.version.version = release.VERSION
    found.features.type_url = typeurls.FEATURES
    found.features.value = _features(settings.binary)
    if options.type_url:
        found.options.CopyFrom(options)
    return found


def _features(binary: str) -> bytes:
    if not binary:
        from longshore.oci import features

        return json.dumps(features.features()).encode()
    try:
        return subprocess.run([binary, "features"], capture_output=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Error(f"{binary} features: {error}") from None


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
