"""The Diff service: a layer blob into mounts (Apply), and the difference of two mounts into a blob (Diff).

All work on trees and streams is done by worker processes (`longshore.layers.worker`),
one per call, which get the blob as a descriptor. The daemon only waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from longshore.api import errors
from longshore.api.services.diff.v1.diff_pb2 import ApplyRequest, ApplyResponse, DiffRequest, DiffResponse
from longshore.api.services.diff.v1.diff_pb2_grpc import DiffServicer
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.api.types.mount_pb2 import Mount
from longshore.containerd import rpc
from longshore.containerd.content.store import ContentStore, Writer
from longshore.containerd.diff import mediatypes
from longshore.containerd.diff.processors import Processor, plan
from longshore.containerd.oserrors import FULL
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.driver import Workers
from longshore.containerd.times import nanoseconds
from longshore.zygote.client import WorkerDied, WorkerError

_UNCOMPRESSED: Final = "containerd.io/uncompressed"
_CHUNK: Final = 1 << 20
_F_SETPIPE_SZ: Final = 1031
_ERRNO: Final = re.compile(r"\[Errno (\d+)\] ")


# Keeps the snapshots behind mounts from garbage collection for as long as the block runs.
Holding = Callable[[Iterable[Mount]], AbstractAsyncContextManager[None]]


def _holding_nothing(_: Iterable[Mount]) -> AbstractAsyncContextManager[None]:
    return contextlib.nullcontext()


class DiffService(DiffServicer):
    """`scratch`: an existing directory upon which workers mount, each in a mount namespace of its own."""

    def __init__(
        self,
        content: ContentStore,
        workers: Workers,
        scratch: str,
        holding: Holding | None = None,
        processors: Sequence[Processor] = (),
    ) -> None:
        self._processors = processors
        self._content = content
        self._holding = holding or _holding_nothing
        self._workers = workers
        self._scratch = scratch

    @rpc.unary(mutates=True)
    async def Apply(self, request: ApplyRequest, call: rpc.Call) -> ApplyResponse:
        return await self.apply(Scope(call.namespace, call.lease), request)

    async def apply(self, scope: Scope, request: ApplyRequest) -> ApplyResponse:
        """What the rpc does, for other parts of the daemon."""
        diff = request.diff
        programs, compression = plan(diff.media_type, self._processors, request.payloads)
        if not request.mounts:
            raise errors.InvalidArgument("no mounts to apply the diff to: invalid argument")
        try:
            blob = await self._content.open(scope, diff.digest)
        except errors.NotFound as error:
            raise errors.NotFound(f"failed to get reader from content store: {error.message}") from None
        try:
            arguments = {
                "mounts": _rows(request.mounts),
                "processors": programs,
                "compression": compression,
                "scratch": self._scratch,
                "sync": request.sync_fs,
            }
            async with self._holding(request.mounts):
                done = await self._work("apply", arguments, [blob.fd], f"failed to apply layer {diff.digest}")
        finally:
            os.close(blob.fd)
        applied = Descriptor(media_type=mediatypes.LAYER, digest=done["digest"], size=done["size"])
        return ApplyResponse(applied=applied)

    @rpc.unary(mutates=True)
    async def Diff(self, request: DiffRequest, call: rpc.Call) -> DiffResponse:
        return await self.compare(Scope(call.namespace, call.lease), request)

    async def compare(self, scope: Scope, request: DiffRequest) -> DiffResponse:
        """What the rpc does, for other parts of the daemon."""
        media_type = request.media_type or mediatypes.LAYER_GZIP
        compression = mediatypes.compression_to_make(media_type)
        epoch = nanoseconds(request.source_date_epoch) if request.HasField("source_date_epoch") else None
        arguments = {
            "left": _rows(request.left),
            "right": _rows(request.right),
            "compression": compression,
            "scratch": self._scratch,
            "epoch_ns": epoch,
        }
        ref = request.ref or f"{time.time_ns()}-{secrets.token_urlsafe(6)}"
        writer = await self._content.writer(scope, ref)
        try:
            if writer.offset:
                await writer.restart()
            async with self._holding([*request.left, *request.right]):
                done = await self._diff_into(writer, arguments)
            labels = dict(request.labels)
            if compression != "none":
                labels[_UNCOMPRESSED] = done["digest"]
            try:
                await writer.commit(done["packed_size"], done["packed_digest"], labels)
            except errors.AlreadyExists:
                await self._label_existing(scope, done["packed_digest"], labels)
        except BaseException:
            await writer.close()
            await _abort(self._content, scope, ref)
            raise
        await writer.close()
        descriptor = Descriptor(media_type=media_type, digest=done["packed_digest"], size=done["packed_size"])
        return DiffResponse(diff=descriptor)

    async def _label_existing(self, scope: Scope, digest: str, labels: dict[str, str]) -> None:
        """The same layer was there before; it needs the labels all the same."""
        if labels:
            await self._content.update(scope, digest, lambda old: old | labels)

    async def _diff_into(self, writer: Writer, arguments: dict[str, Any]) -> dict[str, Any]:
        """Let a worker write into a pipe, and what comes out of it into `writer`."""
        read_end, write_end = os.pipe()
        try:
            work = asyncio.get_running_loop().create_task(
                self._work("diff", arguments, [write_end], "failed to create diff")
            )
            # The stream ends when the worker has: then nobody holds this end any more.
            work.add_done_callback(lambda _: os.close(write_end))
            try:
                await _copy(read_end, writer)
                return await work
            except BaseException:
                work.cancel()
                await asyncio.wait([work])
                raise
        finally:
            os.close(read_end)

    async def _work(self, name: str, arguments: dict[str, Any], fds: list[int], deed: str) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await self._workers.call(
                f"longshore.layers.worker:{name}", arguments, fds
            )
            return answer
        except WorkerError as error:
            raise _failure(deed, error) from None
        except WorkerDied as error:
            raise errors.Unavailable(f"{deed}: {error}: unavailable") from None


def _failure(deed: str, error: WorkerError) -> errors.Error:
    """The worker's exception as a client hears it: Unknown, as containerd says of any bad layer."""
    found = _ERRNO.match(error.message)
    if found is None:
        return errors.Error(f"{deed}: {error.message}")
    kind = errors.ResourceExhausted if int(found[1]) in FULL else errors.Error
    text = error.message[found.end() :]
    return kind(f"{deed}: {text[:1].lower()}{text[1:]}")


async def _copy(source: int, writer: Writer) -> None:
    os.set_blocking(source, False)
    fcntl.fcntl(source, _F_SETPIPE_SZ, _CHUNK)
    while True:
        await _readable(source)
        try:
            data = os.read(source, _CHUNK)
        except BlockingIOError:
            continue
        if not data:
            return
        await writer.write(data)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


async def _abort(content: ContentStore, scope: Scope, ref: str) -> None:
    with contextlib.suppress(errors.NotFound):
        await content.abort(scope, ref)


def _rows(mounts: Iterable[Mount]) -> list[list[Any]]:
    """Mounts as workers take them."""
    return [[mount.type, mount.source, list(mount.options), mount.target] for mount in mounts]
