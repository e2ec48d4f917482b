"""Sandbox Store and Controller over the socket, with a shim that serves sandboxes and one that doesn't."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any as Anything

import grpc
import pytest
from google.protobuf.any_pb2 import Any

from longshore.api import errors
from longshore.api.events.sandbox_pb2 import SandboxExit
from longshore.api.services.events.v1.events_pb2 import SubscribeRequest
from longshore.api.services.events.v1.events_pb2_grpc import EventsStub
from longshore.api.services.sandbox.v1 import sandbox_pb2 as api
from longshore.api.services.sandbox.v1.sandbox_pb2_grpc import ControllerStub, StoreStub
from longshore.api.types.sandbox_pb2 import Sandbox
from longshore.containerd.scope import Scope
from support import process
from support.daemon import Longshore
from support.remote import ask, channel
from support.sandboxshim import write


@pytest.fixture(scope="module")
def daemon() -> Iterator[Longshore]:
    with Longshore() as running:
        yield running


@pytest.fixture
async def opened(daemon: Longshore) -> AsyncIterator[grpc.aio.Channel]:
    async with channel(daemon.address) as found:
        yield found


class User:
    def __init__(self, opened: grpc.aio.Channel, namespace: str = "") -> None:
        self.scope = Scope(namespace or f"b{uuid.uuid4().hex[:8]}")
        self._store, self._controller = StoreStub(opened), ControllerStub(opened)

    async def store(self, verb: str, **fields: Anything) -> Anything:
        return await ask(
            getattr(self._store, verb), getattr(api, f"Store{verb}Request")(**fields), self.scope
        )

    async def control(self, verb: str, **fields: Anything) -> Anything:
        request = getattr(api, f"Controller{verb}Request")(**fields)
        return await ask(getattr(self._controller, verb), request, self.scope)


@pytest.fixture
def user(opened: grpc.aio.Channel) -> User:
    return User(opened)


def sandbox(id: str = "pod", runtime: str = "r", **fields: Anything) -> Sandbox:
    return Sandbox(sandbox_id=id, runtime=Sandbox.Runtime(name=runtime), **fields)


async def test_records_come_and_go(user: User) -> None:
    made = (await user.store("Create", sandbox=sandbox(labels={"a": "b", "empty": ""}))).sandbox
    assert made.labels == {"a": "b"} and made.created_at == made.updated_at
    with pytest.raises(errors.AlreadyExists):
        await user.store("Create", sandbox=sandbox())
    with pytest.raises(errors.InvalidArgument):
        await user.store("Create", sandbox=sandbox("-bad"))
    assert (await user.store("Get", sandbox_id="pod")).sandbox == made
    await user.store("Create", sandbox=sandbox("other"))
    found = await user.store("List", filters=["labels.a==b"])
    assert [each.sandbox_id for each in found.list] == ["pod"]
    assert len((await user.store("List")).list) == 2
    await user.store("Delete", sandbox_id="pod")
    for verb in ("Get", "Delete"):
        with pytest.raises(errors.NotFound, match='sandbox "pod": not found'):
            await user.store(verb, sandbox_id="pod")


async def test_masks_reach_what_they_name(user: User) -> None:
    extensions = {"x": Any(type_url="t", value=b"1"), "y": Any(type_url="t", value=b"2")}
    await user.store("Create", sandbox=sandbox(labels={"a": "1", "b": "2"}, extensions=extensions))
    given = sandbox(labels={"a": "9", "c": "3"}, spec=Any(type_url="s"))
    changed = (await user.store("Update", sandbox=given, fields=["labels.a", "extensions.x"])).sandbox
    assert changed.labels == {"a": "9", "b": "2"} and [*changed.extensions] == ["y"]
    assert not changed.HasField("spec")
    whole = (await user.store("Update", sandbox=given)).sandbox
    assert whole.labels == {"a": "9", "c": "3"} and not whole.extensions and whole.spec.type_url == "s"
    with pytest.raises(errors.InvalidArgument, match="immutable"):
        await user.store("Update", sandbox=sandbox(runtime="s"))
    with pytest.raises(errors.InvalidArgument, match='cannot update "sandboxer" field'):
        await user.store("Update", sandbox=given, fields=["sandboxer"])
    assert (
        await user.store("Update", sandbox=sandbox(runtime="s"), fields=["runtime"])
    ).sandbox.runtime.name == "s"


async def test_a_sandbox_lives_and_ends(user: User, opened: grpc.aio.Channel, tmp_path: Path) -> None:
    events = EventsStub(opened).Subscribe(
        SubscribeRequest(filters=[f"namespace=={user.scope.namespace},topic~=|^/sandboxes/|"])
    )
    await events.initial_metadata()
    shim = write(tmp_path / "shim")
    await user.control("Create", sandbox_id="pod", sandbox=sandbox(runtime=str(shim)), netns_path="/run/net")
    with pytest.raises(errors.AlreadyExists):
        await user.control("Create", sandbox_id="pod", sandbox=sandbox(runtime=str(shim)))
    started = await user.control("Start", sandbox_id="pod")
    assert started.pid and started.created_at.seconds == 5 and started.address.startswith("ttrpc+unix://")
    status = await user.control("Status", sandbox_id="pod")
    assert (status.state, status.pid, status.address) == ("SANDBOX_READY", started.pid, started.address)
    with pytest.raises(errors.Unimplemented):
        await user.control("Metrics", sandbox_id="pod")
    waits = [asyncio.create_task(user.control("Wait", sandbox_id="pod")) for _ in range(3)]
    await user.control("Stop", sandbox_id="pod")
    assert [(await each).exit_status for each in waits] == [7, 7, 7]
    await user.control("Shutdown", sandbox_id="pod")
    found: list[Anything] = [await events.read() for _ in range(3)]
    assert [each.topic for each in found] == [f"/sandboxes/{word}" for word in ("create", "start", "exit")]
    assert SandboxExit.FromString(found[2].event.value).exit_status == 7
    process.eventually(lambda: not _alive(started.pid), what="the shim is gone")


async def test_what_is_not_there(user: User) -> None:
    status = await user.control("Status", sandbox_id="none")
    assert status.exited_at.seconds and not status.pid
    await user.control("Stop", sandbox_id="none")
    for verb in ("Start", "Wait", "Shutdown", "Platform", "Metrics"):
        with pytest.raises(errors.NotFound):
            await user.control(verb, sandbox_id="none")
    with pytest.raises(errors.NotFound, match="sandbox controller by podsandbox"):
        await user.control("Stop", sandbox_id="none", sandboxer="podsandbox")
    await user.control("Update", sandbox_id="none")


async def test_runtimes_without_sandboxes_say_so(user: User, daemon: Longshore, tmp_path: Path) -> None:
    with pytest.raises(errors.Unimplemented, match="built-in shim"):
        await user.control("Create", sandbox_id="pod", sandbox=sandbox(runtime="io.containerd.runc.v2"))
    shim = write(tmp_path / "shim", service="other")
    with pytest.raises(errors.Unimplemented, match="has no sandbox service"):
        await user.control("Create", sandbox_id="pod", sandbox=sandbox(runtime=str(shim)))
    place = daemon.state / "io.containerd.sandbox.controller.v1.shim" / user.scope.namespace
    assert not list(place.iterdir())
    _end_by_name(shim)


async def test_one_whose_shim_dies_has_ended(user: User, tmp_path: Path) -> None:
    shim = write(tmp_path / "shim")
    await user.control("Create", sandbox_id="pod", sandbox=sandbox(runtime=str(shim)))
    started = await user.control("Start", sandbox_id="pod")
    waiting = asyncio.create_task(user.control("Wait", sandbox_id="pod"))
    await asyncio.sleep(0)
    os.kill(started.pid, signal.SIGKILL)
    assert (await waiting).exit_status == 255


async def test_sandboxes_outlive_the_daemon(tmp_path: Path) -> None:
    shim = write(tmp_path / "shim")
    with Longshore() as daemon:
        async with channel(daemon.address) as opened:
            user = User(opened)
            await user.control("Create", sandbox_id="pod", sandbox=sandbox(runtime=str(shim)))
            started = await user.control("Start", sandbox_id="pod")
            await asyncio.to_thread(daemon.kill9)
        await asyncio.to_thread(daemon.start)
        async with channel(daemon.address) as opened:
            user = User(opened, user.scope.namespace)
            assert (await user.control("Status", sandbox_id="pod")).pid == started.pid
            await user.control("Stop", sandbox_id="pod")
            await user.control("Shutdown", sandbox_id="pod")
        process.eventually(lambda: not _alive(started.pid), what="the shim is gone")


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _end_by_name(shim: Path) -> None:
    """The shim of a failed Create that nobody can speak to: ours to end, found by its own path."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            continue
        if os.fsencode(shim) in words and words[-2:-1] == [b"serve"]:
            os.kill(int(entry.name), signal.SIGKILL)
            process.eventually(lambda: not _alive(int(entry.name)), what="the shim is gone")  # noqa: B023
