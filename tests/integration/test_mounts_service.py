"""Mounts over the socket: loop devices, file systems, overlays of activated mounts; nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any as Anything

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from longshore.api import errors
from longshore.api.services.leases.v1.leases_pb2 import CreateRequest, DeleteRequest
from longshore.api.services.leases.v1.leases_pb2_grpc import LeasesStub
from longshore.api.services.mounts.v1 import mounts_pb2 as api
from longshore.api.services.mounts.v1.mounts_pb2_grpc import MountsStub
from longshore.api.services.streaming.v1.streaming_pb2 import StreamInit
from longshore.api.services.streaming.v1.streaming_pb2_grpc import StreamingStub
from longshore.api.types.mount_pb2 import ActivationInfo
from longshore.api.types.mount_pb2 import Mount as Message
from longshore.api.typeurls import pack, type_name
from longshore.containerd.scope import Scope
from longshore.linux.mounts import Mount, mounted
from support.daemon import Longshore
from support.remote import ask, channel, headers


@pytest.fixture(scope="module")
def daemon() -> Iterator[Longshore]:
    with Longshore() as running:
        yield running


def there(path: str) -> bool:
    return os.path.lexists(path)


class User:
    def __init__(self, opened: grpc.aio.Channel, namespace: str = "") -> None:
        self.scope = Scope(namespace or f"m{uuid.uuid4().hex[:8]}")
        self.stub = MountsStub(opened)

    async def ask(self, verb: str, **fields: Anything) -> Anything:
        return await ask(getattr(self.stub, verb), getattr(api, f"{verb}Request")(**fields), self.scope)

    async def names(self, *filters: str) -> list[str]:
        call = self.stub.List(api.ListRequest(filters=filters), metadata=headers(self.scope))
        return [message.info.name async for message in call]


@pytest.fixture
async def user(daemon: Longshore) -> AsyncIterator[User]:
    async with channel(daemon.address) as opened:
        yield User(opened)


async def test_directories_below_an_overlay(user: User, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    mounts = [
        Message(type="bind", source=str(tmp_path / "a"), options=["rbind", "ro"]),
        Message(type="bind", source=str(tmp_path / "b"), options=["rbind", "ro"]),
        Message(
            type="format/mkdir/overlay",
            source="overlay",
            options=[
                f"X-containerd.mkdir.path={tmp_path}/new/upper:750",
                f"X-containerd.mkdir.path={tmp_path}/new/work",
                f"upperdir={tmp_path}/new/upper",
                f"workdir={tmp_path}/new/work",
                "lowerdir={{ overlay 1 0 }}",
            ],
        ),
    ]
    info = (await user.ask("Activate", name="o/1", mounts=mounts, labels={"a": "b"})).info
    try:
        assert [os.listdir(active.mount_point) for active in info.active] == [["a"], ["b"]]
        assert os.stat(tmp_path / "new/upper").st_mode & 0o777 == 0o750
        (tmp_path / "seen").mkdir()
        system = [Mount(each.type, each.source, each.options) for each in info.system]
        with mounted(system, str(tmp_path / "seen")):
            assert sorted(os.listdir(tmp_path / "seen")) == ["a", "b"]
        with pytest.raises(errors.AlreadyExists):
            await user.ask("Activate", name="o/1", mounts=mounts)
        assert (await user.ask("Info", name="o/1")).info == info
        assert await user.names("labels.a==b") == ["o/1"] and await user.names("name==x") == []
        given = ActivationInfo(name="o/1", labels={"c": "d"})
        mask = FieldMask(paths=["labels.c"])
        changed = (await user.ask("Update", info=given, update_mask=mask)).info
        assert changed.labels == {"a": "b", "c": "d"}
    finally:
        await user.ask("Deactivate", name="o/1")
    assert await user.names() == []
    with pytest.raises(errors.NotFound):
        await user.ask("Deactivate", name="o/1")


async def test_a_file_becomes_a_file_system(user: User, tmp_path: Path) -> None:
    if shutil.which("mkfs.ext4") is None or not there("/dev/loop-control"):
        pytest.skip("there is no mkfs.ext4, or no loop devices")
    image = tmp_path / "image"
    mounts = [
        Message(type="mkfs/loop", source=str(image), options=["X-containerd.mkfs.size=4m"]),
        Message(type="format/ext4", source="{{ mount 0 }}"),
    ]
    for _ in range(2):
        info = (await user.ask("Activate", name="box", mounts=mounts)).info
        try:
            assert info.system[0].source == info.active[0].mount_point and image.stat().st_size == 4 << 20
            (tmp_path / "seen").mkdir(exist_ok=True)
            with mounted([Mount("ext4", info.system[0].source)], str(tmp_path / "seen")):
                (tmp_path / "seen" / "kept").write_text("x")
        finally:
            await user.ask("Deactivate", name="box")
    assert not there(f"/sys/block/{info.active[0].mount_point.removeprefix('/dev/')}/loop")


async def test_what_fails_leaves_nothing(user: User, daemon: Longshore, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    mounts = [
        Message(type="bind", source=str(tmp_path / "a"), options=["rbind"]),
        Message(type="bind", source=str(tmp_path / "none"), options=["rbind"]),
        Message(type="format/bind", source="{{ mount 1 }}"),
    ]
    with pytest.raises(errors.Error, match="no such file"):
        await user.ask("Activate", name="bad", mounts=mounts)
    assert await user.names() == []
    with pytest.raises(errors.Unimplemented):
        await user.ask("Activate", name="plain", mounts=mounts[:1])


async def test_activations_outlive_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    mounts = [
        Message(type="bind", source=str(tmp_path / "a"), options=["rbind"]),
        Message(type="format/bind", source="{{ mount 0 }}/x"),
    ]
    with Longshore() as daemon:
        async with channel(daemon.address) as opened:
            user = User(opened)
            info = (await user.ask("Activate", name="stays", mounts=mounts)).info
            await asyncio.to_thread(daemon.kill9)
        await asyncio.to_thread(daemon.start)
        async with channel(daemon.address) as opened:
            user = User(opened, user.scope.namespace)
            assert (await user.ask("Info", name="stays")).info == info
            await user.ask("Deactivate", name="stays")
        assert not there(info.active[0].mount_point)


async def test_temporary_ones_go_with_their_lease(daemon: Longshore, tmp_path: Path) -> None:
    """All of the list is mounted, and what the client gets is one bind mount."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    async with channel(daemon.address) as opened:
        user = User(opened)
        leases: Anything = LeasesStub(opened)
        await ask(leases.Create, CreateRequest(id="l"), user.scope)
        mounts = [Message(type="bind", source=str(tmp_path / "a"), options=["rbind", "ro"])]
        leased = Scope(user.scope.namespace, "l")
        request = api.ActivateRequest(name="t", mounts=mounts, temporary=True)
        info = (await ask(user.stub.Activate, request, leased)).info
        assert os.listdir(info.active[0].mount_point) == ["file"]
        assert [(each.type, each.source) for each in info.system] == [("bind", info.active[0].mount_point)]
        request = api.ActivateRequest(name="stays", mounts=mounts, temporary=True)
        await ask(user.stub.Activate, request, user.scope)
        await ask(leases.Delete, DeleteRequest(id="l", sync=True), user.scope)
        assert await user.names() == ["stays"] and not there(info.active[0].mount_point)
        await user.ask("Deactivate", name="stays")


async def test_streams_end_with_their_lease(daemon: Longshore) -> None:
    async with channel(daemon.address) as opened:
        scope = Scope(f"m{uuid.uuid4().hex[:8]}", "l")
        leases: Anything = LeasesStub(opened)
        await ask(leases.Create, CreateRequest(id="l"), scope._replace(lease=""))
        streams: Anything = StreamingStub(opened)
        leased = streams.Stream(metadata=headers(scope))
        free = streams.Stream(metadata=headers(scope._replace(lease="")))
        for name, call in (("leased", leased), ("free", free)):
            await call.write(pack(StreamInit(id=name)))
            assert type_name(await call.read()) == "google.protobuf.Empty"
        await ask(leases.Delete, DeleteRequest(id="l", sync=True), scope._replace(lease=""))
        assert await leased.read() is grpc.aio.EOF and await leased.code() is grpc.StatusCode.OK
        assert not free.done()
        free.cancel()


async def test_a_damaged_record_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    mounts = [Message(type="bind", source=str(tmp_path / "a"), options=["rbind"])]
    with Longshore() as daemon:
        async with channel(daemon.address) as opened:
            user = User(opened)
            for name in ("bad", "good"):
                await user.ask("Activate", name=name, mounts=mounts, temporary=True)
            (record,) = (path for path in daemon.state.rglob("info") if b"bad" in path.read_bytes())
            before = record.read_bytes()
            record.write_bytes(b"\xff\xff")
            assert await user.names() == ["good"]
            with pytest.raises(errors.DataLoss, match="is damaged"):
                await user.ask("Deactivate", name="bad")
            record.write_bytes(before)
            for name in ("bad", "good"):
                await user.ask("Deactivate", name=name)
