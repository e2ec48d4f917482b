"""The zygote as an asyncio daemon sees it: spawn it early, then await its children's answers.

Spawn before importing grpc, so that the daemon never forks with threads
running; `subprocess` starts the zygote by vfork and exec, no Python runs in
between. Imports nothing of the zygote's own load.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from longshore.linux.descriptors import as_given
from longshore.zygote import place, wire

DEFAULT_SOCKET_DIR = "/run/containerd/s"

# A shim lives for months and its environment can be read: it inherits no secrets of the daemon's.
_ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "TMPDIR",
    "TZ",
    "XDG_RUNTIME_DIR",
)
# Sealed before anything else is loaded: its children enter containers, which see its executable.
_BOOT = (
    "import sys; sys.path[:] = {path!r}; from longshore.linux import seal; seal.ensure(); "
    "from longshore.zygote.main import main; sys.exit(main())"
)


class WorkerError(Exception):
    """The function raised: `kind` is the class name of its exception, `message` its text."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


class WorkerDied(Exception):
    """The child ended without an answer (killed, out of memory, or its zygote was)."""


class ShimRequest(NamedTuple):
    """What a shim is told at its start.

    `address` is containerd's gRPC socket, `ttrpc_address` its ttrpc twin. With
    `exits_address` the shim reports events there (longshore.exits.v1), else
    it forwards them to `ttrpc_address`. `version` is the Task API to announce.
    """

    namespace: str
    id: str
    bundle: str
    address: str
    ttrpc_address: str = ""
    exits_address: str = ""
    socket_dir: str = ""
    runtime_root: str = ""
    debug: bool = False
    version: int = 3


class ShimStarted(NamedTuple):
    """The shim that serves the container; with grouping it may have been running before."""

    pid: int
    address: str
    version: int
    protocol: str


def shim_address(socket_dir: str, address: str, namespace: str, id: str, bundle: str) -> str:
    """Where the shim of a bundle listens if one does: as `Zygote.start_shim` places it.

    Raises OSError or ValueError when the bundle's config.json can't be read.
    """
    path = place.socket_path(socket_dir or DEFAULT_SOCKET_DIR, address, namespace, place.group(bundle, id))
    return f"unix://{path}"


class Zygote:
    """A zygote process and the way to it; make it with `spawn`, end it with `close`."""

    def __init__(self, log_level: str, warm: Sequence[str] = ()) -> None:
        self._log_level, self._warm = log_level, warm
        self._sending = asyncio.Lock()
        self._control, self._process = _start(log_level, warm)
        self._closed = False

    @classmethod
    def spawn(cls, log_level: str = "info", warm: Sequence[str] = ()) -> Zygote:
        """Start a zygote; returns at once, its loading overlaps with ours.

        `warm` are modules that its workers need; with any it is one for them alone, and starts no shims.
        """
        return cls(log_level, warm)

    @property
    def pid(self) -> int:
        """The pid of the process that answers now."""
        return self._process.pid

    async def call(self, function: str, arguments: object, fds: Sequence[int] = ()) -> Any:
        """Run ``module:function(arguments, fds)`` in a forked worker; its JSON result.

        A function that returns another one goes on with that, on its own: we get {"pid": its pid}.
        `fds` stay ours, the worker gets duplicates. Raises WorkerError when the
        function raised, WorkerDied when the worker vanished. A cancelled call
        kills its worker before the cancellation goes on.
        """
        return await self._ask({"function": function, "arguments": arguments}, fds)

    async def start_shim(self, request: ShimRequest) -> ShimStarted:
        """Fork a shim, or find the running one of the container's group. Errors as those of `call`."""
        directory = request.socket_dir or DEFAULT_SOCKET_DIR
        try:
            found = await asyncio.to_thread(
                place.settle, directory, request.address, request.namespace, request.id, request.bundle
            )
        except (OSError, ValueError) as error:
            raise WorkerError(type(error).__name__, str(error)) from None
        try:
            pid = found.pid if found.listener is None else await self._started(request, found.listener)
        except BaseException:
            if found.listener is not None:
                os.unlink(found.path)
            raise
        finally:
            found.settled()
        return ShimStarted(pid, found.address, request.version, "ttrpc")

    async def close(self) -> None:
        """End the zygote and the workers it has; shims live on."""
        self._closed = True
        self._control.close()
        await asyncio.to_thread(self._process.wait)

    async def _ask(self, request: object, fds: Sequence[int]) -> Any:
        for _ in range(3):
            ours, theirs = socket.socketpair()
            with ours:
                ours.setblocking(False)
                with theirs:
                    await self._send(wire.CALL, [theirs.fileno(), *fds])
                pidfd = await _begun(ours)
                # No child: the zygote died before it read the packet. Nothing has begun, so ask its successor.
                if pidfd is None:
                    continue
                try:
                    return await _answer(ours, request)
                except asyncio.CancelledError:
                    await _kill(pidfd)
                    raise
                finally:
                    os.close(pidfd)
        raise WorkerDied("the zygote died at each attempt")

    async def _started(self, request: ShimRequest, listener: socket.socket) -> int:
        forking = asyncio.ensure_future(self._fork_shim(request, listener))
        try:
            return await asyncio.shield(forking)
        except asyncio.CancelledError:
            # Nobody would ever end a shim that nobody knows of; one without containers ends when told to.
            with contextlib.suppress(WorkerDied, ProcessLookupError):
                os.kill(await forking, signal.SIGTERM)
            raise

    async def _fork_shim(self, request: ShimRequest, listener: socket.socket) -> int:
        packet = wire.shim_packet(
            (
                request.namespace,
                request.id,
                request.bundle,
                request.address,
                request.ttrpc_address,
                request.exits_address,
                request.runtime_root,
            )
        )
        for _ in range(3):
            ours, theirs = socket.socketpair()
            with ours:
                ours.setblocking(False)
                with theirs:
                    await self._send(packet, [theirs.fileno(), listener.fileno()])
                reply = await _until_end(ours)
            if reply.startswith(wire.STARTED):
                return int(reply[1:])
        raise WorkerDied("the zygote died at each attempt")

    async def _send(self, packet: bytes, fds: Sequence[int]) -> None:
        async with self._sending:
            for _ in range(3):
                if self._closed:
                    raise WorkerDied("the zygote is closed")
                try:
                    while not self._try_send(packet, fds):
                        await _ready(self._control, writing=True)
                    return
                except (BrokenPipeError, ConnectionResetError):
                    self._respawn()
        raise WorkerDied("the zygote died at each attempt")

    def _try_send(self, packet: bytes, fds: Sequence[int]) -> bool:
        try:
            socket.send_fds(self._control, [packet], fds)
        except BlockingIOError:
            return False
        return True

    def _respawn(self) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()
        self._control, self._process = _start(self._log_level, self._warm)


def _start(log_level: str, warm: Sequence[str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment["LONGSHORE_LOG_LEVEL"] = log_level
    boot = _BOOT.format(path=[entry for entry in sys.path if entry])
    with theirs:
        # A session of its own: Ctrl-C at the daemon's terminal is not meant for it.
        process = subprocess.Popen(
            as_given([sys.executable, "-I", "-S", "-c", boot, str(theirs.fileno()), *warm]),
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=[theirs.fileno()],
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    ours.setblocking(False)
    return ours, process


async def _begun(reply: socket.socket) -> int | None:
    """The child's pidfd, once it was forked; None if it never will be."""
    await _ready(reply)
    try:
        data, fds, _, _ = socket.recv_fds(reply, 1, 1)
    except ConnectionResetError:
        return None
    if not data:
        return None
    if not fds:
        raise WorkerDied("the worker's pidfd could not be received (too many open files)")
    return fds[0]


async def _answer(reply: socket.socket, request: object) -> Any:
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(reply, wire.encode(request))
        (length,) = wire.LENGTH.unpack(await _exactly(loop, reply, wire.LENGTH.size))
        answer = json.loads(await _exactly(loop, reply, length))
    except (BrokenPipeError, ConnectionResetError, EOFError):
        raise WorkerDied("the worker ended without an answer") from None
    if "kind" in answer:
        raise WorkerError(answer["kind"], answer["message"])
    return answer["value"]


async def _until_end(reply: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    try:
        while part := await loop.sock_recv(reply, 64):
            data += part
    except ConnectionResetError:
        pass
    return data


async def _exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await loop.sock_recv(sock, count - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


async def _kill(pidfd: int) -> None:
    """Kill and wait until it is gone: a worker must not write into what its caller cleans up next.

    However often the caller is cancelled meanwhile: it closes the descriptor next, and the event loop would never
    hear of the connection that gets its number.
    """
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    gone = asyncio.ensure_future(_ready(pidfd))
    while not gone.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(gone)


async def _ready(file: socket.socket | int, *, writing: bool = False) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(file, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(file)
