"""The Content service: a ContentStore on the socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from google.protobuf.empty_pb2 import Empty

from longshore.api import errors
from longshore.api.services.content.v1.content_pb2 import (
    AbortRequest,
    DeleteContentRequest,
    InfoRequest,
    InfoResponse,
    ListContentRequest,
    ListContentResponse,
    ListStatusesRequest,
    ListStatusesResponse,
    ReadContentRequest,
    ReadContentResponse,
    StatusRequest,
    StatusResponse,
    UpdateRequest,
    UpdateResponse,
    WriteAction,
    WriteContentRequest,
    WriteContentResponse,
)
from longshore.api.services.content.v1.content_pb2 import Info as InfoMessage
from longshore.api.services.content.v1.content_pb2 import Status as StatusMessage
from longshore.api.services.content.v1.content_pb2_grpc import ContentServicer
from longshore.containerd import rpc
from longshore.containerd.content.store import Blob, ContentStore, Info, Status, Writer
from longshore.containerd.masks import relabelling
from longshore.containerd.metadata import digests
from longshore.containerd.scope import Scope
from longshore.containerd.times import timestamp

CHUNK: Final = 1 << 20


class ContentService(ContentServicer):
    def __init__(self, store: ContentStore) -> None:
        self._store = store

    @rpc.unary()
    async def Info(self, request: InfoRequest, call: rpc.Call) -> InfoResponse:
        _validate(request.digest)
        return InfoResponse(info=_info_message(await self._store.info(_scope(call), request.digest)))

    @rpc.unary(mutates=True)
    async def Update(self, request: UpdateRequest, call: rpc.Call) -> UpdateResponse:
        digest = request.info.digest
        _validate(digest)
        relabel = relabelling(
            request.info.labels,
            request.update_mask.paths,
            lambda path: f'cannot update "{path}" field on content info "{digest}": invalid argument',
        )
        return UpdateResponse(info=_info_message(await self._store.update(_scope(call), digest, relabel)))

    @rpc.server_stream
    async def List(
        self, request: ListContentRequest, call: rpc.Call
    ) -> AsyncGenerator[ListContentResponse, None]:
        async for block in self._store.list(_scope(call), request.filters):
            yield ListContentResponse(info=[_info_message(info) for info in block])

    @rpc.unary(mutates=True)
    async def Delete(self, request: DeleteContentRequest, call: rpc.Call) -> Empty:
        _check(request.digest)
        await self._store.delete(_scope(call), request.digest)
        return Empty()

    @rpc.server_stream
    async def Read(
        self, request: ReadContentRequest, call: rpc.Call
    ) -> AsyncGenerator[ReadContentResponse, None]:
        _check(request.digest, f"{request.digest}: ")
        blob = await self._store.open(_scope(call), request.digest)
        reader = _BlobReader(blob)
        try:
            start = max(request.offset, 0)
            if start > blob.size:
                raise errors.OutOfRange(f"read past object length {blob.size} bytes")
            end = blob.size if request.size <= 0 else min(start + request.size, blob.size)
            async for data, offset in reader.chunks(start, end):
                # Joined by hand: a megabyte is copied once, not thrice.
                header = b"\x08" + _varint(offset) if offset else b""
                yield rpc.encoded(ReadContentResponse, b"".join((header, b"\x12", _varint(len(data)), data)))
        finally:
            await reader.close()

    @rpc.unary()
    async def Status(self, request: StatusRequest, call: rpc.Call) -> StatusResponse:
        try:
            scope = _scope(call)
        except errors.Error as error:
            text = f'could not get status for ref "{request.ref}": {error.message}'
            raise type(error)(text) from None
        return StatusResponse(status=_status_message(await self._store.status(scope, request.ref)))

    @rpc.unary()
    async def ListStatuses(self, request: ListStatusesRequest, call: rpc.Call) -> ListStatusesResponse:
        statuses = await self._store.statuses(_scope(call), request.filters)
        return ListStatusesResponse(statuses=[_status_message(status) for status in statuses])

    @rpc.bidi_stream
    async def Write(
        self, requests: AsyncIterator[WriteContentRequest], call: rpc.Call
    ) -> AsyncGenerator[WriteContentResponse, None]:
        request = await anext(aiter(requests), None)
        if request is None:
            raise errors.Error("EOF")
        if not request.ref:
            raise errors.InvalidArgument("first message must have a reference")
        scope = _scope(call)
        opening = asyncio.get_running_loop().create_task(
            self._store.writer(scope, request.ref, total=request.total, expected=request.expected)
        )
        try:
            session = _Session(self._store, scope, await asyncio.shield(opening), request)
            while request is not None:
                yield await session.answer(request)
                if request.action == WriteAction.COMMIT:
                    return
                request = await anext(aiter(requests), None)
        finally:
            await rpc.shielded(_close(opening))

    @rpc.unary(mutates=True)
    async def Abort(self, request: AbortRequest, call: rpc.Call) -> Empty:
        await self._store.abort(_scope(call), request.ref)
        return Empty()


async def _close(opening: asyncio.Task[Writer]) -> None:
    with contextlib.suppress(errors.Error):
        await (await opening).close()


class _Session:
    """One Write call: each message in, one answer out."""

    def __init__(self, store: ContentStore, scope: Scope, writer: Writer, first: WriteContentRequest) -> None:
        self._store = store
        self._scope = scope
        self._writer = writer
        self._ref = first.ref
        self._total = first.total
        self._expected = first.expected

    async def answer(self, request: WriteContentRequest) -> WriteContentResponse:
        await self._check_expected(request.expected)
        if request.action in (WriteAction.WRITE, WriteAction.COMMIT):
            await self._take(request)
        if request.action == WriteAction.COMMIT:
            size = request.total or self._total
            digest = await self._writer.commit(size, request.expected or self._expected, request.labels)
        else:
            digest = await self._writer.digest()
        status = self._writer.status
        return WriteContentResponse(
            action=request.action,
            started_at=timestamp(status.started),
            updated_at=timestamp(status.updated),
            offset=status.offset,
            total=self._total,
            digest=digest,
        )

    async def _check_expected(self, expected: str) -> None:
        """A client that learns its digest late (`ctr content ingest`) need not upload what is there."""
        if not expected or expected == self._expected:
            return
        self._expected = expected
        try:
            await self._store.info(self._scope, expected)
        except errors.NotFound:
            return
        await self._store.abort(self._scope, self._ref)
        raise errors.AlreadyExists(f"blob with expected digest {expected} exists")

    async def _take(self, request: WriteContentRequest) -> None:
        writer = self._writer
        if request.offset > 0 and request.offset != writer.offset:
            raise errors.OutOfRange(f"write @{request.offset} must occur at current offset {writer.offset}")
        # An offset that isn't given means the start, in a COMMIT as well.
        if request.offset <= 0 < writer.offset:
            await writer.restart()
        await writer.write(request.data)


class _BlobReader:
    """Takes what is in the page cache at once; what isn't, a thread reads, one chunk ahead of the client."""

    def __init__(self, blob: Blob) -> None:
        self._fd = blob.fd
        self._ahead: asyncio.Future[bytes] | None = None

    async def chunks(self, start: int, end: int) -> AsyncGenerator[tuple[bytes | memoryview, int], None]:
        """(data, offset in the section asked for)"""
        position = start
        while position < end:
            data: bytes | memoryview | None = None
            if self._ahead is None:
                data = _cached(self._fd, position, min(CHUNK, end - position))
            if data is None:
                data = await self._from_disk(position, end)
            if not data:
                raise errors.DataLoss(f"blob ends at {position} of {end} bytes")
            offset, position = position - start, position + len(data)
            yield data, offset

    async def _from_disk(self, position: int, end: int) -> bytes:
        data = await (self._ahead or self._in_thread(position, min(CHUNK, end - position)))
        following = position + len(data)
        # The disk works on the next chunk while this one is sent.
        self._ahead = (
            self._in_thread(following, min(CHUNK, end - following)) if following < end and data else None
        )
        return data

    def _in_thread(self, position: int, size: int) -> asyncio.Future[bytes]:
        return asyncio.get_running_loop().run_in_executor(None, os.pread, self._fd, size, position)

    async def close(self) -> None:
        if self._ahead is not None:
            await asyncio.wait([self._ahead])
        os.close(self._fd)


def _cached(fd: int, position: int, size: int) -> memoryview | None:
    """What can be read without waiting for the disk, None if that is nothing."""
    buffer = bytearray(size)
    try:
        count = os.preadv(fd, [buffer], position, os.RWF_NOWAIT)
    except OSError:  # not cached, or a filesystem that can't tell
        return None
    return memoryview(buffer)[:count] if count else None


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# -- messages -----------------------------------------------------------------------------------------------


def _scope(call: rpc.Call) -> Scope:
    return Scope(call.namespace, call.lease)


def _check(digest: str, before: str = "") -> None:
    """Read and Delete word it in this way, Info and Update in that of `_validate`."""
    try:
        digests.validate(digest)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(before + error.message.removesuffix(": invalid argument")) from None


def _validate(digest: str) -> None:
    try:
        digests.validate(digest)
    except errors.InvalidArgument:
        raise errors.InvalidArgument(f'"{digest}" failed validation') from None


def _info_message(info: Info) -> InfoMessage:
    return InfoMessage(
        digest=info.digest,
        size=info.size,
        created_at=timestamp(info.created),
        updated_at=timestamp(info.updated),
        labels=info.labels,
    )


def _status_message(status: Status) -> StatusMessage:
    return StatusMessage(
        started_at=timestamp(status.started),
        updated_at=timestamp(status.updated),
        ref=status.ref,
        offset=status.offset,
        total=status.total,
        expected=status.expected,
    )
