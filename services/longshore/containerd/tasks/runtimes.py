"""From a runtime's name to what serves it, and the command lines of shim programs.

``io.containerd.runc.v2``, the name that every client asks for, and our own
name mean the built-in shim. Any other name ``a.b.c`` means the program
``containerd-shim-<b>-<c>`` on PATH, an absolute path that very program.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from longshore.api.errors import (
    DeadlineExceeded,
    Error,
    InvalidArgument,
    NotFound,
    Unavailable,
    undecodable,
)
from longshore.api.runtime.task.v3.shim_pb2 import DeleteResponse
from longshore.containerd.tasks import bootstrap
from longshore.containerd.tasks.bootstrap import Bootstrap
from longshore.linux.descriptors import as_given

DEFAULT = "io.containerd.runc.v2"
BUILTIN_NAMES = frozenset({DEFAULT, "io.containerd.longshore.v1"})
BUILTIN_PROGRAM = "containerd-shim-longshore-v1"

# What a shim started by us must not learn from our environment: who supervises
# us, and what looks like a secret (/proc/<shim>/environ outlives us by months).
_PRIVATE = re.compile(
    r"NOTIFY_SOCKET|WATCHDOG_.*|LISTEN_.*|CREDENTIALS_DIRECTORY|.*(TOKEN|SECRET|PASSWORD|PASSWD|_KEY)", re.I
)
# The last release line whose shims want serialized runtime options on stdin.
_BOOTSTRAP_SINCE = (2, 3)
_VERSION = re.compile(r"^\s*Version:\s+v?(\d+)\.(\d+)", re.M)


class Runtime(NamedTuple):
    """What serves a container: `program` is a shim's absolute path, "" for the built-in one."""

    name: str
    program: str

    @property
    def builtin(self) -> bool:
        return not self.program


class Settings(NamedTuple):
    """What every shim is told about this daemon. `runtime_root` is where the OCI runtime keeps its state."""

    grpc_address: str
    ttrpc_address: str
    containerd_binary: str
    containerd_version: str
    socket_dir: str
    log_level: str
    environment: Mapping[str, str]
    runtime_root: str = ""

    @property
    def debug(self) -> bool:
        return self.log_level in ("debug", "trace")


class Runtimes:
    """Resolves names; a program once found is remembered for the daemon's life, as clients expect.

    `configured` maps names to absolute paths and wins over everything.
    """

    def __init__(self, configured: Mapping[str, str] = MappingProxyType({})) -> None:
        self._found = {name: Runtime(name, path) for name, path in configured.items()}

    def resolve(self, name: str) -> Runtime:
        """What serves runtime `name`. Raises InvalidArgument for a malformed name, NotFound without program."""
        runtime = self._found.get(name)
        if runtime is None:
            program = "" if name in BUILTIN_NAMES else _program(name)
            runtime = self._found[name] = Runtime(name, program)
        return runtime

    def recorded(self, program: str, name: str) -> Runtime:
        """What serves an existing bundle: its recorded program, else the container's runtime `name`."""
        if os.path.basename(program) == BUILTIN_PROGRAM or (not program and name in BUILTIN_NAMES):
            return Runtime(name or DEFAULT, "")
        if program:
            return Runtime(program, program)
        return self.resolve(name)


def builtin_program() -> str:
    """Where the built-in shim is as a program, for `shim-binary-path` and for ``delete``."""
    beside = os.path.join(os.path.dirname(sys.executable), BUILTIN_PROGRAM)
    return beside if os.path.exists(beside) else shutil.which(BUILTIN_PROGRAM) or beside


def _program(name: str) -> str:
    if os.path.isabs(name):
        if not os.path.exists(name):
            raise NotFound(f"invalid custom binary path: stat {name}: no such file or directory")
        return name
    words = name.split(".")
    if "/" in name or len(words) < 2 or not all(words):
        raise InvalidArgument(
            f"invalid runtime name {name}, correct runtime name should be either format like"
            " `io.containerd.runc.v1` or a full path to the binary"
        )
    binary = f"containerd-shim-{words[-2]}-{words[-1]}"
    found = shutil.which(binary) or shutil.which(binary, path=os.path.dirname(sys.executable))
    if found is None:
        raise NotFound(f'runtime "{name}" binary not installed "{binary}": file does not exist')
    return os.path.abspath(found)


class Program:
    """A shim as a program: its ``start`` and ``delete`` for one bundle."""

    def __init__(self, program: str, settings: Settings, namespace: str, id: str, bundle: str) -> None:
        self._program = program
        self._settings = settings
        self._namespace = namespace
        self._id = id
        self._bundle = bundle

    def command(self, action: str) -> list[str]:
        """The argument list; `action` is start or delete."""
        settings = self._settings
        command = [self._program, "-namespace", self._namespace, "-address", settings.grpc_address]
        command += ["-publish-binary", settings.containerd_binary, "-id", self._id]
        if action == "delete":
            command += ["-bundle", self._bundle]
        if settings.debug:
            command.append("-debug")
        return [*command, action]

    def environment(self) -> dict[str, str]:
        """Ours without what is nobody's business, and what the shim contract adds."""
        inherited = {name: value for name, value in os.environ.items() if not _PRIVATE.fullmatch(name)}
        return {
            **inherited,
            "GOMAXPROCS": "2",
            "MAX_SHIM_VERSION": "2",
            "TTRPC_ADDRESS": self._settings.ttrpc_address,
            "GRPC_ADDRESS": self._settings.grpc_address,
            "NAMESPACE": self._namespace,
            "LONGSHORE_EXITS_ADDRESS": self._settings.grpc_address,
            **self._settings.environment,
        }

    async def start(self, options: Any | None) -> Bootstrap:
        """Run ``start``; how to reach the shim. Raises Error with what it printed when it failed."""
        status, output, _ = await self._run("start", await self._input(options), errors_apart=False)
        if status:
            text = output.decode(errors="replace").strip()
            raise Error(f"start failed: {text}: exit status {status}: unknown")
        return bootstrap.parse_answer(output)

    async def delete(self, timeout: float) -> DeleteResponse:
        """Run ``delete`` for at most `timeout` seconds: kill, unmount, clean. Raises Error when that failed."""
        try:
            async with asyncio.timeout(timeout):
                status, output, complaint = await self._run("delete", b"", errors_apart=True)
        except TimeoutError:
            raise DeadlineExceeded("shim delete: context deadline exceeded") from None
        if status:
            text = complaint.decode(errors="replace").strip()
            raise Error(f"shim delete: {text}: exit status {status}: unknown")
        try:
            return DeleteResponse.FromString(output)
        except DecodeError as error:
            raise Error(f"shim delete: answer {output[:200]!r}: {undecodable(error)}: unknown") from None

    async def _input(self, options: Any | None) -> bytes:
        """The stdin of ``start``: BootstrapParams for ours and for Go shims since 2.3, serialized options before."""
        settings = self._settings
        if os.path.basename(self._program) != BUILTIN_PROGRAM and not await _takes_bootstrap(self._program):
            return options.SerializeToString() if options is not None else b""
        return bootstrap.params(
            namespace=self._namespace,
            id=self._id,
            log_level=settings.log_level,
            containerd_version=settings.containerd_version,
            grpc_address=settings.grpc_address,
            ttrpc_address=settings.ttrpc_address,
            containerd_binary=settings.containerd_binary,
            socket_dir=settings.socket_dir,
            options=options,
        )

    async def _run(self, action: str, data: bytes, *, errors_apart: bool) -> tuple[int, bytes, bytes]:
        try:
            process = await asyncio.create_subprocess_exec(
                *as_given(self.command(action)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE if errors_apart else asyncio.subprocess.STDOUT,
                cwd=self._bundle,
                env=self.environment(),
            )
        except OSError as error:
            raise Unavailable(f"shim {action}: {self._program}: {error.strerror}: unavailable") from None
        try:
            output, complaint = await process.communicate(data)
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        return await process.wait(), output, complaint or b""


_generations: dict[tuple[str, int, int], bool] = {}


async def _takes_bootstrap(program: str) -> bool:
    """Whether a shim program reads BootstrapParams: what its ``-v`` says, asked once per file.

    Sending the wrong one fails: to a 1.6 shim BootstrapParams are runtime
    options of an unknown type. Shims of others keep the old contract.
    """
    if not os.path.basename(program).startswith("containerd-shim-runc"):
        return False
    try:
        found = os.stat(program)
        key = (program, found.st_ino, found.st_mtime_ns)
        if key not in _generations:
            _generations[key] = await _version_of(program) >= _BOOTSTRAP_SINCE
        return _generations[key]
    except OSError:
        return False  # starting it gives the better error


async def _version_of(program: str) -> tuple[int, int]:
    process = await asyncio.create_subprocess_exec(
        program,
        "-v",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    match = _VERSION.search(output.decode(errors="replace"))
    return (int(match[1]), int(match[2])) if match else (0, 0)
