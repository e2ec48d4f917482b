"""The content store: blobs by digest, written as resumable ingests."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from longshore.api.errors import AlreadyExists, DataLoss, Unavailable
from longshore.api.services.content.v1 import content_pb2 as pb
from longshore.client.connection import Connection, translated
from longshore.client.stubs import stub

if TYPE_CHECKING:
    from grpc import aio

    from longshore.api.services.content.v1.content_pb2_grpc import ContentAsyncStub
    from longshore.api.types.descriptor_pb2 import Descriptor

Info = pb.Info
Status = pb.Status

CHUNK = 1 << 20  # bytes a message; the store's own reads come in the same size
_LOCKED_DELAYS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between looks at an ingest that is in use


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Writer:
    """One open ingest. `offset` is how much of it the store holds: resume from there."""

    def __init__(
        self, call: aio.StreamStreamCall[pb.WriteContentRequest, pb.WriteContentResponse], ref: str
    ) -> None:
        self._call = call
        self.ref = ref
        self.offset = 0

    async def _ask(self, request: pb.WriteContentRequest) -> pb.WriteContentResponse:
        with translated():
            try:
                await self._call.write(request)
            except Exception:  # the call has ended: its status, raised by read, says why
                pass
            answer = await self._call.read()
            if not isinstance(answer, pb.WriteContentResponse):
                raise Unavailable(f"the store closed the ingest {self.ref}: unavailable")
            return answer

    async def status(self) -> pb.WriteContentResponse:
        answer = await self._ask(pb.WriteContentRequest(action=pb.STAT))
        self.offset = answer.offset
        return answer

    async def write(self, data: bytes) -> None:
        """Append; any length, sent in messages of a mebibyte."""
        view = memoryview(data)
        while view:
            piece = view[:CHUNK]
            answer = await self._ask(
                pb.WriteContentRequest(action=pb.WRITE, offset=self.offset, data=bytes(piece))
            )
            if answer.offset != self.offset + len(piece):
                raise DataLoss(f"short write to {self.ref}: data loss")
            self.offset = answer.offset
            view = view[len(piece) :]

    async def commit(
        self, *, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None
    ) -> str:
        """Make it a blob and answer its digest.

        Raises AlreadyExists, or FailedPrecondition when size or digest differ.
        """
        answer = await self._ask(
            pb.WriteContentRequest(
                action=pb.COMMIT, offset=self.offset, total=size, expected=expected, labels=labels or {}
            )
        )
        return answer.digest


class Content:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub: ContentAsyncStub = stub(pb.DESCRIPTOR, "Content", connection.channel)

    async def info(self, digest: str) -> Info:
        """Raises NotFound when this namespace doesn't have the blob."""
        return (await self._connection.call(self._stub.Info, pb.InfoRequest(digest=digest))).info

    async def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[Info]:
        async for block in self._connection.stream(self._stub.List, pb.ListContentRequest(filters=filters)):
            for info in block.info:
                yield info

    async def label(self, digest: str, labels: Mapping[str, str]) -> Info:
        """Set these labels and leave the others; an empty value removes one."""
        request = pb.UpdateRequest(
            info=Info(digest=digest, labels=labels),
            update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
        )
        return (await self._connection.call(self._stub.Update, request)).info

    async def delete(self, digest: str) -> None:
        """Take the blob out of this namespace; its bytes go with the next garbage collection."""
        await self._connection.call(self._stub.Delete, pb.DeleteContentRequest(digest=digest))

    async def chunks(self, digest: str, *, offset: int = 0, size: int = 0) -> AsyncIterator[bytes]:
        """Stream a blob, or `size` bytes of it from `offset`."""
        request = pb.ReadContentRequest(digest=digest, offset=offset, size=size)
        async for block in self._connection.stream(self._stub.Read, request):
            yield block.data

    async def read(self, digest: str, *, limit: int = 64 << 20) -> bytes:
        """A whole blob in memory: manifests and configs, not layers. Raises ValueError above `limit` bytes."""
        parts = []
        total = 0
        async for data in self.chunks(digest):
            total += len(data)
            if total > limit:
                raise ValueError(f"blob {digest} is larger than {limit} bytes")
            parts.append(data)
        return b"".join(parts)

    async def statuses(self, filters: Sequence[str] = ()) -> list[Status]:
        """Ingests under way."""
        request = pb.ListStatusesRequest(filters=filters)
        return list((await self._connection.call(self._stub.ListStatuses, request)).statuses)

    async def abort(self, ref: str) -> None:
        await self._connection.call(self._stub.Abort, pb.AbortRequest(ref=ref))

    @asynccontextmanager
    async def writer(self, ref: str, *, size: int = 0, expected: str = "") -> AsyncIterator[Writer]:
        """Open (or resume) the ingest `ref`. Raises AlreadyExists when `expected` is here, Unavailable when in use.

        Leaving the block without `commit` keeps what was written for a resume.
        """
        call = self._stub.Write(metadata=self._connection.metadata)
        writer = Writer(call, ref)
        try:
            answer = await writer._ask(
                pb.WriteContentRequest(action=pb.STAT, ref=ref, total=size, expected=expected)
            )
            writer.offset = answer.offset
            yield writer
            with translated():
                await call.done_writing()
            # With the end of the call the store lets go of the ingest: whoever opens it next finds it free.
            with suppress(Exception):  # the one that ended it has been told to whoever asked
                while isinstance(await call.read(), pb.WriteContentResponse):
                    pass
        finally:
            call.cancel()

    @asynccontextmanager
    async def awaited_writer(self, ref: str, *, size: int = 0, expected: str = "") -> AsyncIterator[Writer]:
        """As `writer`, but an ingest in use is waited for: another client's, or one whose client was just killed."""
        import asyncio

        looks = 0
        while True:
            opened = False
            try:
                async with self.writer(ref, size=size, expected=expected) as writer:
                    opened = True
                    yield writer
                return
            except Unavailable as error:
                if opened or "locked" not in error.message:
                    raise
            await asyncio.sleep(_LOCKED_DELAYS[min(looks, len(_LOCKED_DELAYS) - 1)])
            looks += 1

    async def write(
        self,
        ref: str,
        data: bytes | AsyncIterator[bytes],
        *,
        size: int = 0,
        expected: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Store a blob from its first byte and answer its digest; a blob that is already here is no error."""
        if isinstance(data, bytes):
            size, expected = len(data), expected or digest_of(data)
        seen = hashlib.sha256()
        try:
            async with self.awaited_writer(ref, size=size, expected=expected) as writer:
                await self._send(writer, data, None if expected else seen)
                return await writer.commit(size=size, expected=expected, labels=labels)
        except AlreadyExists:  # without saying which blob it is
            digest = expected or f"sha256:{seen.hexdigest()}"
            if labels:
                await self.label(digest, labels)
            return digest

    @staticmethod
    async def _send(writer: Writer, data: bytes | AsyncIterator[bytes], seen: hashlib._Hash | None) -> None:
        skip = writer.offset  # what an earlier attempt left, or all of it when another namespace has the blob
        if isinstance(data, bytes):
            await writer.write(data[skip:])
            return
        async for piece in grouped(data, CHUNK):
            if seen is not None:
                seen.update(piece)
            if skip >= len(piece):
                skip -= len(piece)
                continue
            await writer.write(piece[skip:])
            skip = 0

    async def list(self, filters: Sequence[str] = ()) -> list[Info]:
        return [info async for info in self.walk(filters)]


async def grouped(data: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least `size`, but for the last: each piece costs a round trip."""
    waiting: list[bytes] = []
    held = 0
    async for piece in data:
        waiting.append(piece)
        held += len(piece)
        if held >= size:
            yield b"".join(waiting)
            waiting, held = [], 0
    if waiting:
        yield b"".join(waiting)


def ingest_ref(descriptor: Descriptor) -> str:
    """The name clients give the ingest of a descriptor: two of them that fetch the same blob meet."""
    kind = "unknown"
    for word, marks in _KINDS.items():
        if any(mark in descriptor.media_type for mark in marks):
            kind = word
            break
    return f"{kind}-{descriptor.digest}"


_KINDS = {
    "index": ("image.index", "manifest.list"),
    "manifest": ("manifest.v1", "manifest.v2"),
    "config": ("config.v1", "container.image.v1"),
    "layer": ("layer", "rootfs.diff"),
}
