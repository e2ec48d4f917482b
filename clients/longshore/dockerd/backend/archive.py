"""Files of a container in and out: cp, export, diff. The work is a forked worker's (`longshore.dockerd.archive`)."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NamedTuple

from longshore.api.errors import Error, InvalidArgument, NotFound, PermissionDenied
from longshore.client import users
from longshore.dockerd.archive.view import rows_of
from longshore.dockerd.backend.live import Live
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.backend.times import exact
from longshore.dockerd.errors import ServerError
from longshore.dockerd.spec import process, subpaths
from longshore.zygote.client import WorkerDied, WorkerError

_WORKER: Final = "longshore.dockerd.archive.worker"
_BLOCK: Final = 1 << 18
_DRAINED: Final = 64 << 20
"""Bytes of a refused body that are still read, so that the client hears why rather than that the connection broke."""

Json = dict[str, Any]


class Packed(NamedTuple):
    """An archive on its way out."""

    statistics: str
    """For the header X-Docker-Container-Path-Stat."""
    blocks: AsyncIterator[bytes]


class Archives:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._scratch = os.path.join(parts.config.data_root, "containers", ".view")

    async def describe(self, live: Live, name: str, path: str) -> str:
        """HEAD's header. NotFound: "Could not find the file PATH in container NAME", as the client calls it."""
        async with self._held(live) as where:
            try:
                return header(await self._call("describe", where | {"path": path}))
            except WorkerError as error:
                raise _refusal(error, name, path) from error

    @asynccontextmanager
    async def packed(self, live: Live, name: str, path: str) -> AsyncIterator[Packed]:
        """Statistics and archive of a path. Errors as `describe`'s, before the first block."""
        async with self._held(live) as where, self._output("pack", where | {"path": path}) as reading:
            try:
                line, rest = await _line(reading)
            except WorkerError as error:
                raise _refusal(error, name, path) from error
            yield Packed(header(json.loads(line)), _joined(rest, reading))
        self._parts.publish(live, "archive-path")

    @asynccontextmanager
    async def exported(self, live: Live) -> AsyncIterator[AsyncIterator[bytes]]:
        """The archive of the whole root file system, without what is mounted on it."""
        arguments = {"mounts": await self._rows(live), "scratch": await self._folder()}
        async with self._output("export", arguments) as reading:
            yield reading
        self._parts.publish(live, "export")

    async def changes(self, live: Live) -> list[Json] | None:
        """Of the container on its image: Path and Kind (0 modified, 1 added, 2 deleted)."""
        try:
            found = await self._call("changes", {"mounts": await self._rows(live)})
        except WorkerError as error:
            raise ServerError(error.message) from error
        return [{"Path": path, "Kind": kind} for path, kind in found] or None

    async def size(self, live: Live) -> int:
        """Bytes that the container wrote into its own layer."""
        try:
            found: int = await self._call("size", {"mounts": await self._rows(live)})
        except WorkerError as error:
            raise ServerError(error.message) from error
        return found

    async def unpack(
        self, live: Live, name: str, path: str, body: AsyncIterator[bytes], *, strict: bool, owned: bool
    ) -> None:
        """The archive `body` into the directory `path`.

        `strict`: no directory is replaced by another thing, nor the other way
        round; `owned`: everything becomes the container's user's. Raises
        NotFound, InvalidArgument, PermissionDenied (read-only).
        """
        owner = await self._owner(live) if owned else None
        wishes = {"path": path, "strict": strict, "owner": owner}
        wishes["readonly"] = live.record.host_config.readonly_rootfs
        async with self._held(live) as where:
            try:
                await self._feed("unpack", where | wishes, body)
            except WorkerError as error:
                raise _refusal(error, name, path, "extraction point is not a directory") from error
        self._parts.publish(live, "extract-to-dir")

    # -- where

    @asynccontextmanager
    async def _held(self, live: Live) -> AsyncIterator[Json]:
        """Arguments of `view.root_of`. A stopped container stays so meanwhile: two mounts mustn't share its upper
        directory."""
        if live.has_process:
            yield {"pid": live.record.state.pid, "id": live.id}
            return
        async with live.lock:
            if live.has_process:
                yield {"pid": live.record.state.pid, "id": live.id}
                return
            binds = [
                [point.source, subpaths.wanted(point), point.target, point.writable]
                for point in live.record.mounts
                if point.source
            ]
            volumes = [point.name for point in live.record.mounts if point.type == "volume"]
            async with self._volumes(live, volumes):
                yield {"mounts": await self._rows(live), "scratch": await self._folder(), "binds": binds}

    @asynccontextmanager
    async def _volumes(self, live: Live, names: list[str]) -> AsyncIterator[None]:
        """Mounted as for a start; an ordinary one has nothing to mount."""
        mounted: list[str] = []
        try:
            for name in names:
                await self._parts.volumes.mount(name, live.id)
                mounted.append(name)
            yield
        finally:
            for name in mounted:
                with suppress(Error):
                    await self._parts.volumes.unmount(name, live.id)

    async def _rows(self, live: Live) -> list[list[Any]]:
        if live.mounts is None:
            live.mounts = await self._parts.snapshots(live).mounts(live.id)
        return rows_of(live.mounts)

    async def _owner(self, live: Live) -> tuple[int, int] | None:
        if not live.record.config.user:
            return None
        await self._rows(live)
        layers = users.layers(live.mounts or [])
        user = await asyncio.to_thread(process.user_of, live.record.config.user, (), layers)
        return user["uid"], user["gid"]

    async def _folder(self) -> str:
        await asyncio.to_thread(os.makedirs, self._scratch, 0o700, exist_ok=True)
        return self._scratch

    # -- workers

    async def _call(self, function: str, arguments: Json) -> Any:
        try:
            return await self._parts.zygote.call(f"{_WORKER}:{function}", arguments)
        except WorkerDied as error:
            raise ServerError(str(error)) from error

    @asynccontextmanager
    async def _output(self, function: str, arguments: Json) -> AsyncIterator[AsyncIterator[bytes]]:
        """What the worker writes; its error is raised behind the last block. It ends with the block."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        working = self._working(function, arguments, theirs)
        try:
            yield _blocks(ours, working)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            ours.close()

    def _working(self, function: str, arguments: Json, theirs: socket.socket) -> asyncio.Future[Any]:
        """Our copy of the worker's end is closed when the worker has ended, so that we see its end of file."""
        call = self._parts.zygote.call(f"{_WORKER}:{function}", arguments, [theirs.fileno()])
        working = asyncio.ensure_future(call)
        working.add_done_callback(lambda _: theirs.close())
        return working

    async def _feed(self, function: str, arguments: Json, body: AsyncIterator[bytes]) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        working = self._working(function, arguments, theirs)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                async for block in body:
                    await asyncio.get_running_loop().sock_sendall(ours, block)
                ours.shutdown(socket.SHUT_WR)
            await asyncio.wait([working])
            if working.exception() is not None:
                await _drain(body)
            working.result()
        except WorkerDied as error:
            raise ServerError(str(error)) from error
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            ours.close()


def header(statistics: Json) -> str:
    """X-Docker-Container-Path-Stat."""
    document = {
        "name": statistics["name"],
        "size": statistics["size"],
        "mode": statistics["mode"],
        "mtime": exact(statistics["mtime_ns"]),
        "linkTarget": statistics["linkTarget"],
    }
    return base64.b64encode(json.dumps(document, separators=(",", ":")).encode()).decode()


async def _blocks(ours: socket.socket, working: asyncio.Future[Any]) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    while block := await loop.sock_recv(ours, _BLOCK):
        yield block
    try:
        await working
    except WorkerDied as error:
        raise ServerError(str(error)) from error


async def _line(blocks: AsyncIterator[bytes]) -> tuple[bytes, bytes]:
    """The first line, and what came with it."""
    held = b""
    async for block in blocks:
        held += block
        line, newline, rest = held.partition(b"\n")
        if newline:
            return line, rest
    raise ServerError("the archive's worker said nothing")


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for block in rest:
        yield block


async def _drain(body: AsyncIterator[bytes]) -> None:
    left = _DRAINED
    async for block in body:
        left -= len(block)
        if left < 0:
            return


def _refusal(error: WorkerError, name: str, path: str, not_directory: str = "not a directory") -> Error:
    """The client's error of a worker's."""
    if error.kind in ("FileNotFoundError", "ProcessLookupError"):
        return NotFound(f"Could not find the file {path} in container {name}")
    if error.kind == "NotADirectoryError":
        return InvalidArgument(not_directory)
    if error.kind == "Refused" and "read-only" in error.message:
        return PermissionDenied(error.message)
    if error.kind == "InvalidLayer":
        why = "unexpected EOF" if "unexpected EOF" in error.message else error.message
        return ServerError(f"Error processing tar file(exit status 1): {why}")
    if error.kind == "Refused":
        return InvalidArgument(error.message)
    return ServerError(error.message)
