"""What `longshore.containerd.content.store` promises, held against all in IMPLEMENTATIONS: add yours."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from longshore.api import errors
from longshore.containerd.content.files import Files
from longshore.containerd.content.local import LocalContent
from longshore.containerd.content.store import ContentStore, Info
from longshore.containerd.metadata.store import Store
from longshore.containerd.proxies.content import RemoteFiles
from longshore.containerd.scope import Scope
from support.remote import RemoteContent, channel

IMPLEMENTATIONS = ["local", "our daemon", "real daemon", "at our daemon", "at the real daemon"]
"""The last two: ours, with blobs in the content store of another."""


@pytest.fixture(params=IMPLEMENTATIONS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ContentStore]:
    async with AsyncExitStack() as stack:
        address = (
            ""
            if request.param == "local"
            else request.getfixturevalue(f"{request.param.split()[-2]}_address")
        )
        if request.param == "local" or request.param.startswith("at "):
            database = Store(tmp_path / "meta.sqlite")
            stack.callback(database.close)
            files = Files(tmp_path / "content")
            if address:
                door = stack.enter_context(grpc.insecure_channel(f"unix:{address}"))
                files = RemoteFiles(tmp_path / "content", "other", door)
            content = LocalContent(files, database)
            stack.callback(content.close)
            yield content
            return
        yield RemoteContent(await stack.enter_async_context(channel(Path(address))))


def fresh(size: int = 64) -> tuple[bytes, str]:
    """Bytes that no test has seen before, and their digest."""
    data = (uuid.uuid4().bytes * (size // 16 + 1))[:size]
    return data, "sha256:" + hashlib.sha256(data).hexdigest()


async def put(store: ContentStore, scope: Scope, data: bytes, **labels: str) -> str:
    writer = await store.writer(scope, f"put-{uuid.uuid4()}")
    try:
        await writer.write(data)
        return await writer.commit(len(data), "", labels)
    finally:
        await writer.close()


async def read(store: ContentStore, scope: Scope, digest: str) -> bytes:
    blob = await store.open(scope, digest)
    try:
        return os.pread(blob.fd, blob.size + 1, 0)
    finally:
        os.close(blob.fd)


async def listed(store: ContentStore, scope: Scope, *filters: str) -> list[Info]:
    return [info async for block in store.list(scope, filters) for info in block]


async def test_write_and_read(store: ContentStore, scope: Scope) -> None:
    data, digest = fresh(3 << 20)
    writer = await store.writer(scope, "ref", total=len(data), expected=digest)
    for start in range(0, len(data), 1 << 20):
        assert writer.offset == start
        await writer.write(data[start : start + (1 << 20)])
    assert await writer.digest() == digest
    assert await writer.commit(len(data), digest, {"a": "b"}) == digest
    await writer.close()
    assert await read(store, scope, digest) == data
    info = await store.info(scope, digest)
    assert (info.digest, info.size, info.labels) == (digest, len(data), {"a": "b"})
    assert info.created == info.updated > 0


async def test_the_empty_blob(store: ContentStore, scope: Scope) -> None:
    writer = await store.writer(scope, "ref")
    digest = await writer.commit(0, "", {})
    await writer.close()
    assert digest == "sha256:" + hashlib.sha256(b"").hexdigest()
    assert await read(store, scope, digest) == b""


async def test_an_ingest_is_resumed(store: ContentStore, scope: Scope) -> None:
    data, digest = fresh(3000)
    first = await store.writer(scope, "ref", total=len(data), expected=digest)
    await first.write(data[:1000])
    await first.close()
    status = await store.status(scope, "ref")
    assert (status.ref, status.offset, status.total) == ("ref", 1000, 3000)
    second = await store.writer(scope, "ref", total=len(data), expected=digest)
    assert second.offset == 1000
    assert await second.digest() == "sha256:" + hashlib.sha256(data[:1000]).hexdigest()
    await second.write(data[1000:])
    await second.commit(len(data), digest, {})
    await second.close()
    assert await read(store, scope, digest) == data
    with pytest.raises(errors.NotFound):
        await store.status(scope, "ref")


async def test_another_total_starts_again(store: ContentStore, scope: Scope) -> None:
    first = await store.writer(scope, "ref", total=10)
    await first.write(b"12345")
    await first.close()
    second = await store.writer(scope, "ref", total=11)
    assert second.offset == 0
    await second.close()


async def test_restart(store: ContentStore, scope: Scope) -> None:
    data, digest = fresh()
    writer = await store.writer(scope, "ref")
    await writer.write(b"something else")
    await writer.restart()
    assert writer.offset == 0
    await writer.write(data)
    assert await writer.commit(len(data), digest, {}) == digest
    await writer.close()


async def test_one_writer_at_a_time(store: ContentStore, scope: Scope) -> None:
    first = await store.writer(scope, "ref")
    with pytest.raises(errors.Unavailable, match=r"ref .*locked for .*: unavailable"):
        await store.writer(scope, "ref")
    other = await store.writer(Scope(scope.namespace + "x"), "ref")
    await other.close()
    await first.close()
    second = await store.writer(scope, "ref")
    await second.close()


async def test_wrong_size(store: ContentStore, scope: Scope) -> None:
    writer = await store.writer(scope, "ref")
    await writer.write(b"12345")
    with pytest.raises(
        errors.FailedPrecondition, match=r'"ref" failed size validation: 5 != 6: failed precondition'
    ):
        await writer.commit(6, "", {})
    await writer.close()
    assert (await store.status(scope, "ref")).offset == 5


async def test_wrong_digest(store: ContentStore, scope: Scope) -> None:
    data, digest = fresh()
    wrong = "sha256:" + "0" * 64
    writer = await store.writer(scope, "ref")
    await writer.write(data)
    with pytest.raises(
        errors.FailedPrecondition, match=f"unexpected commit digest {digest}, expected {wrong}"
    ):
        await writer.commit(0, wrong, {})
    await writer.close()
    with pytest.raises(errors.NotFound):
        await store.info(scope, digest)
    retry = await store.writer(scope, "ref")
    assert await retry.commit(len(data), digest, {}) == digest
    await retry.close()


async def test_known_content_is_refused_at_once(store: ContentStore, scope: Scope) -> None:
    data, _ = fresh()
    digest = await put(store, scope, data)
    with pytest.raises(errors.AlreadyExists, match=f"content {digest}: already exists"):
        await store.writer(scope, "ref", total=len(data), expected=digest)
    with pytest.raises(errors.NotFound):
        await store.status(scope, "ref")


async def test_known_content_is_refused_at_commit(store: ContentStore, scope: Scope) -> None:
    data, _ = fresh()
    digest = await put(store, scope, data, first="1")
    writer = await store.writer(scope, "ref")
    await writer.write(data)
    with pytest.raises(errors.AlreadyExists, match=f"content {digest}: already exists"):
        await writer.commit(len(data), "", {"second": "2"})
    await writer.close()
    with pytest.raises(errors.NotFound):
        await store.status(scope, "ref")
    assert (await store.info(scope, digest)).labels == {"first": "1"}


async def test_namespaces_share_bytes_and_nothing_else(store: ContentStore, scope: Scope) -> None:
    other = Scope(scope.namespace + "x")
    data, _ = fresh()
    digest = await put(store, scope, data, mine="1")
    with pytest.raises(errors.NotFound):
        await store.info(other, digest)
    with pytest.raises(errors.NotFound):
        await store.open(other, digest)
    assert await listed(store, other) == []
    writer = await store.writer(other, "ref", total=len(data), expected=digest)
    assert writer.offset == len(data)
    assert await writer.commit(len(data), digest, {"theirs": "2"}) == digest
    await writer.close()
    assert (await store.info(other, digest)).labels == {"theirs": "2"}
    assert (await store.info(scope, digest)).labels == {"mine": "1"}
    await store.delete(scope, digest)
    assert await read(store, other, digest) == data


async def test_shared_bytes_can_be_uploaded_again(store: ContentStore, scope: Scope) -> None:
    other = Scope(scope.namespace + "x")
    data, _ = fresh()
    digest = await put(store, scope, data)
    writer = await store.writer(other, "ref", total=len(data), expected=digest)
    await writer.restart()
    assert writer.offset == 0
    await writer.write(data)
    assert await writer.commit(len(data), digest, {}) == digest
    await writer.close()
    assert await read(store, other, digest) == data


async def test_delete(store: ContentStore, scope: Scope) -> None:
    data, _ = fresh()
    digest = await put(store, scope, data)
    blob = await store.open(scope, digest)
    await store.delete(scope, digest)
    assert os.pread(blob.fd, 100, 0) == data
    os.close(blob.fd)
    for gone in (store.info(scope, digest), store.open(scope, digest), store.delete(scope, digest)):
        with pytest.raises(errors.NotFound, match=f"content digest {digest}: not found"):
            await gone
    assert await put(store, scope, data) == digest


async def test_labels(store: ContentStore, scope: Scope) -> None:
    data, _ = fresh()
    digest = await put(store, scope, data, a="1", b="2")
    before = await store.info(scope, digest)
    after = await store.update(scope, digest, lambda labels: labels | {"a": "", "c": "3"})
    assert after.labels == {"b": "2", "c": "3"}
    assert after.created == before.created and after.updated > before.updated
    assert await store.info(scope, digest) == after
    with pytest.raises(errors.InvalidArgument, match="label key and value"):
        await store.update(scope, digest, lambda labels: {"k": "v" * 4096})
    with pytest.raises(errors.NotFound):
        await store.update(scope, "sha256:" + "0" * 64, lambda labels: labels)


async def test_labels_that_are_too_long_stop_a_commit(store: ContentStore, scope: Scope) -> None:
    data, digest = fresh()
    writer = await store.writer(scope, "ref")
    await writer.write(data)
    with pytest.raises(errors.InvalidArgument):
        await writer.commit(len(data), digest, {"k": "v" * 4096})
    await writer.close()
    with pytest.raises(errors.NotFound):
        await store.info(scope, digest)


async def test_list(store: ContentStore, scope: Scope) -> None:
    assert await listed(store, scope) == []
    digests = sorted([await put(store, scope, fresh()[0], number=str(number)) for number in range(130)])
    blocks = [[info.digest for info in block] async for block in store.list(scope, [])]
    assert [len(block) for block in blocks] == [100, 30]
    assert [name for block in blocks for name in block] == digests
    assert [info.labels["number"] for info in await listed(store, scope, "labels.number==7")] == ["7"]
    assert len(await listed(store, scope, "labels.number==7", "labels.number==8")) == 2
    assert len(await listed(store, scope, f"digest=={digests[0]}")) == 1
    with pytest.raises(errors.InvalidArgument):
        await listed(store, scope, "labels.number=")


async def test_ingests(store: ContentStore, scope: Scope) -> None:
    for ref in ("b", "a"):
        writer = await store.writer(scope, ref)
        await writer.write(ref.encode() * 3)
        await writer.close()
    assert [(status.ref, status.offset) for status in await store.statuses(scope, [])] == [("a", 3), ("b", 3)]
    assert [status.ref for status in await store.statuses(scope, ["ref==b"])] == ["b"]
    assert list(await store.statuses(Scope(scope.namespace + "x"), [])) == []
    await store.abort(scope, "a")
    assert [status.ref for status in await store.statuses(scope, [])] == ["b"]
    with pytest.raises(errors.NotFound, match="reference a: not found"):
        await store.abort(scope, "a")
    with pytest.raises(errors.NotFound, match='could not get status for ref "a"'):
        await store.status(scope, "a")
    writer = await store.writer(scope, "a")
    assert writer.offset == 0
    await writer.close()


async def test_strange_refs(store: ContentStore, scope: Scope) -> None:
    for ref in ("a/../../b", "x y", "ü", "r" * 300, "."):
        data, digest = fresh()
        writer = await store.writer(scope, ref)
        await writer.write(data)
        assert await writer.commit(len(data), digest, {}) == digest
        await writer.close()


async def test_a_lease_that_is_unknown(store: ContentStore, scope: Scope) -> None:
    with pytest.raises(errors.NotFound, match="lease does not exist: not found"):
        await store.writer(scope._replace(lease="none"), "ref")
    with pytest.raises(errors.NotFound):
        await store.status(scope, "ref")
