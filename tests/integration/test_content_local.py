"""The content store when things go wrong: a full disk, kill -9, a database that fails, everybody at once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from longshore.api import errors
from longshore.containerd.content.local import ISOLATED, LocalContent
from longshore.containerd.metadata.store import Store
from longshore.containerd.scope import Scope
from longshore.linux.mounts import MS_REMOUNT, Mount, mount, mounted

SCOPE, OTHER = Scope("one"), Scope("two")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "meta.sqlite")
    yield store
    store.close()


@pytest.fixture
async def content(tmp_path: Path, database: Store) -> AsyncIterator[LocalContent]:
    store = LocalContent(tmp_path / "content", database)
    yield store
    store.close()


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def put(content: LocalContent, scope: Scope, data: bytes) -> str:
    writer = await content.writer(scope, f"ref-{sha(data)}")
    try:
        if not writer.offset:
            await writer.write(data)
        return await writer.commit(len(data), sha(data), {})
    finally:
        await writer.close()


def files_below(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


async def test_layout_on_disk(content: LocalContent, tmp_path: Path) -> None:
    root = tmp_path / "content"
    writer = await content.writer(SCOPE, "ref", total=5)
    await writer.write(b"12")
    await writer.close()
    (ingest,) = (root / "ingest").iterdir()
    assert len(ingest.name) == 64
    assert sorted(path.name for path in ingest.iterdir()) == [
        "data",
        "ref",
        "startedat",
        "total",
        "updatedat",
    ]
    assert (ingest / "total").read_text() == "5" and (ingest / "startedat").read_text().endswith("Z")
    digest = await put(content, SCOPE, b"hello")
    blob = root / "blobs" / "sha256" / digest.removeprefix("sha256:")
    assert blob.read_bytes() == b"hello" and blob.stat().st_mode & 0o777 == 0o444


async def test_files_go_with_the_last_namespace(content: LocalContent, tmp_path: Path) -> None:
    digest = await put(content, SCOPE, b"hello")
    assert await put(content, OTHER, b"hello") == digest
    blob = tmp_path / "content" / "blobs" / "sha256" / digest.removeprefix("sha256:")
    await content.delete(SCOPE, digest)
    assert blob.exists()
    await content.delete(OTHER, digest)
    assert not blob.exists()
    assert files_below(tmp_path / "content") == []


async def test_isolated_namespaces(tmp_path: Path, database: Store) -> None:
    content = LocalContent(tmp_path / "content", database, ISOLATED)
    digest = await put(content, SCOPE, b"hello")
    writer = await content.writer(OTHER, "ref", total=5, expected=digest)
    assert writer.offset == 0
    await writer.close()
    await database.write(
        lambda transaction: transaction.execute(
            """UPDATE namespaces SET labels = '{"containerd.io/namespace.shareable":"true"}' WHERE name = 'one'"""
        )
    )
    writer = await content.writer(OTHER, "other", total=5, expected=digest)
    assert writer.offset == 5
    await writer.commit(5, digest, {})
    await writer.close()
    content.close()


async def test_other_algorithms(content: LocalContent) -> None:
    data = b"hello" * 1000
    expected = "sha512:" + hashlib.sha512(data).hexdigest()
    writer = await content.writer(SCOPE, "ref", total=len(data), expected=expected)
    await writer.write(data)
    assert await writer.commit(len(data), expected, {}) == expected
    await writer.close()
    blob = await content.open(SCOPE, expected)
    assert os.pread(blob.fd, 10_000, 0) == data
    os.close(blob.fd)
    wrong = await content.writer(SCOPE, "ref2")
    await wrong.write(data)
    for digest in ("sha512:" + "0" * 128, "md5:" + "0" * 32, "nonsense"):
        with pytest.raises(errors.FailedPrecondition, match="unexpected commit digest"):
            await wrong.commit(0, digest, {})
    await wrong.close()


async def test_a_full_disk(tmp_path: Path, database: Store) -> None:
    root = tmp_path / "content"
    root.mkdir()
    data = random.Random(7).randbytes(3 << 20)
    with mounted([Mount("tmpfs", "tmpfs", ("size=2m",))], str(root)):
        content = LocalContent(root, database)
        try:
            writer = await content.writer(SCOPE, "ref", total=len(data))
            with pytest.raises(errors.ResourceExhausted, match="no space left on device"):
                for start in range(0, len(data), 300_000):
                    await writer.write(data[start : start + 300_000])
            kept = writer.offset
            assert 1 << 20 < kept < len(data)
            assert await writer.digest() == sha(data[:kept])
            with pytest.raises(errors.ResourceExhausted):
                await writer.write(data[kept:])
            await writer.close()
            with pytest.raises(errors.Error, match="no space left"):
                await put(content, SCOPE, data[: 1 << 19])
            # Room is made, and everything goes on where it was.
            mount("tmpfs", str(root), None, MS_REMOUNT, "size=8m")
            writer = await content.writer(SCOPE, "ref", total=len(data))
            assert writer.offset == kept
            await writer.write(data[kept:])
            assert await writer.commit(len(data), sha(data), {}) == sha(data)
            await writer.close()
            for status in await content.statuses(SCOPE, []):
                await content.abort(SCOPE, status.ref)
            assert files_below(root) == [f"blobs/sha256/{sha(data)[7:]}"]
        finally:
            content.close()


async def test_a_database_that_fails_at_commit(
    content: LocalContent, database: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await content.writer(SCOPE, "ref")
    await writer.write(b"hello")

    async def fail(_: object) -> None:
        raise errors.ResourceExhausted("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(database, "write", fail)
        with pytest.raises(errors.ResourceExhausted):
            await writer.commit(5, "", {})
    assert not list((tmp_path / "content" / "blobs" / "sha256").iterdir())
    assert (await content.status(SCOPE, "ref")).offset == 5
    await writer.write(b"!")
    assert await writer.commit(6, "", {}) == sha(b"hello!")
    await writer.close()


async def test_aborted_under_the_writer(content: LocalContent) -> None:
    writer = await content.writer(SCOPE, "ref")
    await writer.write(b"hello")
    await content.abort(SCOPE, "ref")
    await writer.write(b"!")
    with pytest.raises(errors.NotFound, match="reference ref: not found"):
        await writer.commit(6, "", {})
    await writer.close()
    with pytest.raises(errors.NotFound):
        await content.info(SCOPE, sha(b"hello!"))


async def test_everybody_at_once(content: LocalContent, tmp_path: Path) -> None:
    """Namespaces commit and delete the same blob; whoever has it can read it, whatever the others do."""
    data = b"shared" * 10_000

    async def come_and_go(scope: Scope) -> None:
        for _ in range(20):
            await put(content, scope, data)
            blob = await content.open(scope, sha(data))
            assert os.pread(blob.fd, len(data), 0) == data
            os.close(blob.fd)
            await content.delete(scope, sha(data))

    await asyncio.gather(*(come_and_go(Scope(f"ns{number}")) for number in range(8)))
    assert files_below(tmp_path / "content") == []


async def test_a_cancelled_caller_leaves_whole_things(content: LocalContent) -> None:
    chance = random.Random(3)
    for number in range(60):
        data = b"%d" % number * 50_000
        task = asyncio.ensure_future(put(content, SCOPE, data))
        await asyncio.sleep(chance.random() * 0.01)
        task.cancel()
        await asyncio.wait([task])
    # Nothing stays locked, and each of them can be finished.
    for number in range(60):
        data = b"%d" % number * 50_000
        try:
            writer = await content.writer(SCOPE, f"ref-{sha(data)}", expected=sha(data))
        except errors.AlreadyExists:
            continue
        await writer.write(data[writer.offset :])
        await writer.commit(len(data), sha(data), {})
        await writer.close()
    blocks = [block async for block in content.list(SCOPE, [])]
    assert sum(map(len, blocks)) == 60


async def test_leases(content: LocalContent, database: Store) -> None:
    await database.write(
        lambda transaction: transaction.execute(
            "INSERT INTO leases VALUES ('one', 'lease', x''), ('one', 'l2', x'')"
        )
    )
    scope, second = Scope("one", "lease"), Scope("one", "l2")

    def held(lease: str) -> list[tuple[str, str]]:
        statement = "SELECT type, id FROM lease_resources WHERE lease = ? ORDER BY type"
        return database.read(lambda connection: connection.execute(statement, (lease,)).fetchall())

    writer = await content.writer(scope, "ref")
    assert held("lease") == [("ingests", "ref")]
    await writer.write(b"hello")
    await writer.commit(5, "", {})
    await writer.close()
    assert held("lease") == [("content", sha(b"hello"))]
    with pytest.raises(errors.AlreadyExists):
        await content.writer(second, "ref", expected=sha(b"hello"))
    assert held("l2") == [("content", sha(b"hello"))]
    writer = await content.writer(second, "other")
    await writer.close()
    await content.abort(second, "other")
    assert held("l2") == [("content", sha(b"hello"))]
    await content.delete(scope, sha(b"hello"))
    assert held("lease") == []


CHILD = """
import asyncio, hashlib, os, sys
from pathlib import Path
from longshore.api import errors
from longshore.containerd.content.local import LocalContent
from longshore.containerd.metadata.store import Store
from longshore.containerd.scope import Scope

async def main(root, seed):
    store = Store(root / "meta.sqlite")
    content = LocalContent(root / "content", store)
    async def one(worker):
        number = 0
        while True:
            number += 1
            data = (b"%d-%d-%d " % (seed, worker, number)) * 20_000
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            writer = await content.writer(Scope("one"), f"{worker}", expected=digest)
            if writer.offset:
                await writer.restart()
            await writer.write(data[:100_000])
            await writer.write(data[100_000:])
            await writer.commit(len(data), digest, {})
            await writer.close()
            os.write(1, digest.encode() + b"\\n")
    await asyncio.gather(*(one(worker) for worker in range(3)))

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def test_kill_9(tmp_path: Path) -> None:
    """What was acknowledged is there; what is there is whole; what was begun can be gone on with."""
    acknowledged: set[str] = set()
    for seed in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(seed)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(5 + 3 * seed):
            acknowledged.add(process.stdout.readline().strip())
        process.send_signal(signal.SIGKILL)
        acknowledged |= {line.strip() for line in process.stdout if len(line) == 72}
        process.wait()
        process.stdout.close()
        for blob in (tmp_path / "content" / "blobs" / "sha256").iterdir():
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name

    async def check() -> None:
        store = Store(tmp_path / "meta.sqlite")
        content = LocalContent(tmp_path / "content", store)
        known = {info.digest async for block in content.list(SCOPE, []) for info in block}
        assert acknowledged <= known
        for digest in known:
            blob = await content.open(SCOPE, digest)
            assert sha(os.pread(blob.fd, blob.size, 0)) == digest
            os.close(blob.fd)
        for status in await content.statuses(SCOPE, []):
            writer = await content.writer(SCOPE, status.ref)
            await writer.restart()
            await writer.commit(0, "", {}) if status.ref == "0" else await content.abort(SCOPE, status.ref)
            await writer.close()
        content.close()
        store.close()

    asyncio.run(check())
