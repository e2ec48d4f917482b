"""Shims' lives and deaths as the daemon sees them, with shims that live in this process."""

# ruff: noqa: ASYNC240 (blocking file work is fine here: the loop has nothing else to do)

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from longshore.api.errors import (
    AlreadyExists,
    Error,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from longshore.api.events.task_pb2 import TaskDelete, TaskExit
from longshore.api.runtime.task.v3 import shim_pb2 as api
from longshore.api.services.exits.v1.exits_pb2 import ReportRequest
from longshore.api.types.event_pb2 import Envelope
from longshore.api.types.task.task_pb2 import RUNNING, STOPPED
from longshore.api.typeurls import pack
from longshore.containerd.metadata.store import Event, Store
from longshore.containerd.tasks import manager as manager_module
from longshore.containerd.tasks.bundle import Bundle, Directories
from longshore.containerd.tasks.manager import Manager
from longshore.containerd.tasks.recovery import Recovery
from longshore.containerd.tasks.runtimes import Settings
from longshore.containerd.tasks.shim import Shim, Timeouts
from longshore.containerd.times import timestamp
from longshore.ttrpc.aio import Method, Server, Services
from longshore.zygote.client import ShimRequest, ShimStarted

BUILTIN = "io.containerd.runc.v2"
PID = 4242


class FakeShim:
    """Serves the Task API for one container. `speaks` is the version that it really has."""

    def __init__(self, path: str, speaks: int = 3) -> None:
        self.path = path
        self.calls: list[str] = []
        self.state = api.StateResponse(pid=PID, status=RUNNING)
        self.execs: dict[str, api.StateResponse] = {}
        self.exists = False
        self.failure: Error | None = None
        self.asked_to_wait = asyncio.Event()
        self.ended = asyncio.Event()
        handlers = {
            "Create": (api.CreateTaskRequest, self._create),
            "Connect": (api.ConnectRequest, self._connect),
            "State": (api.StateRequest, self._state),
            "Pids": (api.PidsRequest, self._pids),
            "Wait": (api.WaitRequest, self._wait),
            "Delete": (api.DeleteRequest, self._delete),
            "Shutdown": (api.ShutdownRequest, self._shutdown),
        }
        methods = {name: Method(kind, self._noted(name, answer)) for name, (kind, answer) in handlers.items()}
        services: Services = {f"containerd.task.v{speaks}.Task": methods}
        self._server = Server(services)

    def _noted(self, name: str, answer: Any) -> Any:
        async def handle(request: Message, metadata: Mapping[str, Sequence[str]]) -> Message:
            self.calls.append(name)
            assert metadata["containerd-namespace-ttrpc"] == ["ns"]
            response: Message = await answer(request)
            return response

        return handle

    async def start(self) -> None:
        await self._server.start(self.path)

    async def die(self) -> None:
        await self._server.stop()
        os.unlink(self.path)

    async def _create(self, request: api.CreateTaskRequest) -> api.CreateTaskResponse:
        if self.failure is not None:
            raise self.failure
        self.exists = True
        assert os.path.exists(request.bundle + "/config.json")
        return api.CreateTaskResponse(pid=PID)

    async def _connect(self, request: api.ConnectRequest) -> api.ConnectResponse:
        return api.ConnectResponse(shim_pid=1, task_pid=PID if self.exists else 0)

    async def _state(self, request: api.StateRequest) -> api.StateResponse:
        if not self.exists or (request.exec_id and request.exec_id not in self.execs):
            raise NotFound("no such process: not found")
        return self.execs[request.exec_id] if request.exec_id else self.state

    async def _pids(self, request: api.PidsRequest) -> api.PidsResponse:
        return api.PidsResponse()

    async def _wait(self, request: api.WaitRequest) -> api.WaitResponse:
        self.asked_to_wait.set()
        await self.ended.wait()
        return api.WaitResponse(exit_status=3)

    async def _delete(self, request: api.DeleteRequest) -> api.DeleteResponse:
        if self.state.status != STOPPED:
            raise FailedPrecondition("cannot delete a running process: failed precondition")
        if not self.exists:
            raise NotFound("no such container: not found")
        self.exists = False
        return api.DeleteResponse(pid=PID, exit_status=3)

    async def _shutdown(self, request: api.ShutdownRequest) -> Empty:
        return Empty()


class Starter:
    """Instead of the zygote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shims: dict[str, FakeShim] = {}
        self.speaks = 3
        self.failure: Error | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def start_shim(self, request: ShimRequest) -> ShimStarted:
        await self.gate.wait()
        shim = self.shims[request.id] = FakeShim(str(self.folder / request.id), self.speaks)
        shim.failure = self.failure
        await shim.start()
        return ShimStarted(pid=1, address=f"unix://{shim.path}", version=3, protocol="ttrpc")


@pytest.fixture
def delete_program(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program for ``delete``: answers 137 and notes that it ran."""
    answer = short_tmp / "answer"
    answer.write_bytes(
        api.DeleteResponse(pid=PID, exit_status=137, exited_at=timestamp(5)).SerializeToString()
    )
    program = short_tmp / "delete"
    program.write_text(f"#!/bin/sh\necho deleted >> {short_tmp}/deleted\ncat {answer}\n")
    program.chmod(0o755)
    monkeypatch.setattr(manager_module, "builtin_program", lambda: str(program))
    return program


@pytest.fixture
async def store(short_tmp: Path) -> AsyncIterator[Store]:
    store = Store(short_tmp / "meta.sqlite")
    yield store
    store.close()


@pytest.fixture
async def starter(short_tmp: Path) -> AsyncIterator[Starter]:
    starter = Starter(short_tmp)
    yield starter
    for shim in starter.shims.values():
        if os.path.exists(shim.path):
            await shim.die()


@pytest.fixture
def directories(short_tmp: Path) -> Directories:
    directories = Directories.below(str(short_tmp / "state"), str(short_tmp / "root"))
    directories.prepare()
    return directories


PATIENT = Timeouts(load=60, state=60, shutdown=60)


def make_manager(
    directories: Directories, starter: Starter, store: Store, timeouts: Timeouts = PATIENT
) -> Manager:
    settings = Settings("/run/c.sock", "/run/c.sock.ttrpc", "/bin/containerd", "2.3.4", "/run/s", "info", {})
    return Manager(directories, settings, starter, store, timeouts=timeouts)


@pytest.fixture
async def manager(
    directories: Directories, starter: Starter, store: Store, delete_program: Path
) -> AsyncIterator[Manager]:
    manager = make_manager(directories, starter, store)
    yield manager
    await manager.close()


async def create(manager: Manager, id: str = "c1") -> int:
    request = api.CreateTaskRequest(id=id)
    return (await manager.create("ns", BUILTIN, b"{}", request)).pid


class Heard:
    """Task events as they are journalled."""

    def __init__(self, store: Store) -> None:
        self.exits: list[tuple[str, int, int]] = []
        self.deletes: list[tuple[str, int]] = []
        store.on_events(self._hear)

    def _hear(self, events: list[Event]) -> None:
        for event in events:
            if event.topic == "/tasks/exit":
                exit = TaskExit.FromString(event.event.value)
                self.exits.append((exit.id, exit.pid, exit.exit_status))
            else:
                delete = TaskDelete.FromString(event.event.value)
                self.deletes.append((delete.container_id, delete.exit_status))


@pytest.fixture
async def heard(store: Store) -> Heard:
    return Heard(store)


async def gone_for(manager: Manager, id: str = "c1") -> None:
    """Wait until the clean-up of a dead shim is over: a Create may begin then."""
    if isinstance(shim := manager._tasks.get(("ns", id)), Shim):
        await shim.client.closed
        await asyncio.sleep(0)
    pending = await manager._take(("ns", id))
    manager._free(("ns", id), pending)


async def test_create_and_delete(manager: Manager, starter: Starter, directories: Directories) -> None:
    assert await create(manager) == PID
    bundle = Bundle(directories, "ns", "c1")
    assert bundle.read_bootstrap().version == 3
    with pytest.raises(FailedPrecondition):
        await manager.delete("ns", "c1")
    assert (await manager.get("ns", "c1")).id == "c1"
    starter.shims["c1"].state.status = STOPPED
    assert (await manager.delete("ns", "c1")).exit_status == 3
    assert starter.shims["c1"].calls == ["Create", "Delete", "Delete", "Shutdown"]
    assert not os.path.exists(bundle.path) and not os.path.exists(bundle.work_path)
    with pytest.raises(NotFound, match=r"^task c1 not found$"):
        await manager.delete("ns", "c1")


async def test_deletes_at_the_same_time(manager: Manager, starter: Starter) -> None:
    await create(manager)
    starter.shims["c1"].state.status = STOPPED
    answers = await asyncio.gather(*(manager.delete("ns", "c1") for _ in range(4)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in answers) == [
        "DeleteResponse",
        "NotFound",
        "NotFound",
        "NotFound",
    ]


async def test_creates_at_the_same_time(manager: Manager, starter: Starter) -> None:
    starter.gate.clear()
    first = asyncio.create_task(create(manager))
    await asyncio.sleep(0)
    with pytest.raises(AlreadyExists, match=r"^task c1: already exists$"):
        await create(manager)
    with pytest.raises(NotFound):
        await manager.get("ns", "c1")
    starter.gate.set()
    assert await first == PID
    with pytest.raises(AlreadyExists):
        await create(manager)


async def test_namespaces_are_apart(manager: Manager) -> None:
    await create(manager)
    with pytest.raises(NotFound):
        await manager.get("other", "c1")
    assert [shim.id for shim in await manager.all("ns")] == ["c1"]
    assert await manager.all("other") == []


async def test_failed_create_leaves_nothing(
    manager: Manager, starter: Starter, directories: Directories, heard: Heard
) -> None:
    starter.failure = Error("OCI runtime create failed: no such file: unknown")
    with pytest.raises(Error, match="OCI runtime create failed"):
        await create(manager)
    assert starter.shims["c1"].calls == ["Create", "Delete", "Shutdown"]
    assert list(directories.bundles()) == []
    assert (heard.exits, heard.deletes) == ([], [])
    starter.failure = None
    assert await create(manager) == PID


async def test_failed_start_of_a_shim_leaves_nothing(manager: Manager, directories: Directories) -> None:
    with pytest.raises(Error, match="failed to resolve runtime path"):
        await manager.create("ns", "/no/such/shim", b"{}", api.CreateTaskRequest(id="c1"))
    assert list(directories.bundles()) == []


async def test_version_3_in_name_only(manager: Manager, starter: Starter, directories: Directories) -> None:
    starter.speaks = 2
    assert await create(manager) == PID
    assert (await manager.get("ns", "c1")).bootstrap.version == 2
    assert Bundle(directories, "ns", "c1").read_bootstrap().version == 2


async def test_dead_shim_is_buried_once(
    manager: Manager, starter: Starter, heard: Heard, short_tmp: Path
) -> None:
    await create(manager)
    shim = await manager.get("ns", "c1")
    shim.ledger.started("e1", 77)
    waiting = [asyncio.create_task(manager.wait("ns", "c1", id)) for id in ("", "e1", "")]
    await asyncio.sleep(0)
    await starter.shims["c1"].die()
    assert [(await each).exit_status for each in waiting] == [137, 137, 137]
    await gone_for(manager)
    assert heard.exits == [("e1", 77, 137), ("c1", PID, 137)]
    assert heard.deletes == [("c1", 137)]
    assert (short_tmp / "deleted").read_text() == "deleted\n"
    assert not os.path.exists(shim.bundle.path)
    with pytest.raises(NotFound):
        await manager.get("ns", "c1")


async def test_wait_asked_during_a_burial(manager: Manager, starter: Starter) -> None:
    await create(manager)
    shim = await manager.get("ns", "c1")
    await starter.shims["c1"].die()
    await shim.client.closed
    await asyncio.sleep(0)
    assert (await manager.wait("ns", "c1", "")).exit_status == 137


async def test_delete_program_that_fails_means_255(
    manager: Manager, starter: Starter, heard: Heard, delete_program: Path
) -> None:
    delete_program.write_text("#!/bin/sh\nexit 1\n")
    await create(manager)
    await starter.shims["c1"].die()
    await gone_for(manager)
    assert (heard.exits, heard.deletes) == ([("c1", PID, 255)], [("c1", 255)])


async def test_burial_is_tried_again_when_the_disk_is_full(
    manager: Manager, starter: Starter, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(manager)
    journal = manager.journal.buried
    failures = [ResourceExhausted("no space left on device: resource exhausted")] * 2

    async def full(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        await journal(*arguments)

    monkeypatch.setattr(manager.journal, "buried", full)
    monkeypatch.setattr(manager_module, "BURY_AGAIN", 0.01)
    await starter.shims["c1"].die()
    await gone_for(manager)
    assert (heard.exits, heard.deletes) == ([("c1", PID, 137)], [("c1", 137)])


async def test_reports_in_the_bundle_come_before_made_up_exits(
    manager: Manager, starter: Starter, heard: Heard
) -> None:
    await create(manager)
    shim = await manager.get("ns", "c1")
    event = TaskExit(container_id="c1", id="c1", pid=PID, exit_status=42, exited_at=timestamp(9))
    envelope = Envelope(timestamp=timestamp(9), namespace="ns", topic="/tasks/exit", event=pack(event))
    record = ReportRequest(instance="i", sequence=1, envelope=envelope).SerializeToString()
    torn = struct.pack(">I", 100) + b"short"
    Path(shim.bundle.file("events")).write_bytes(struct.pack(">I", len(record)) + record + torn)
    await starter.shims["c1"].die()
    assert (await manager.wait("ns", "c1", "")).exit_status == 42
    await gone_for(manager)
    assert (heard.exits, heard.deletes) == ([("c1", PID, 42)], [("c1", 42)])


async def test_stopping_ends_waits_and_leaves_shims_alone(
    manager: Manager, starter: Starter, heard: Heard
) -> None:
    await create(manager)
    waiting = asyncio.create_task(manager.wait("ns", "c1", ""))
    await starter.shims["c1"].asked_to_wait.wait()
    manager.stop_waiting()
    with pytest.raises(Unavailable):
        await waiting
    await manager.close()
    await asyncio.sleep(0.01)
    assert (heard.exits, heard.deletes) == ([], [])


async def restart(manager: Manager, starter: Starter, store: Store, timeouts: Timeouts = PATIENT) -> Manager:
    await manager.close()
    successor = make_manager(manager.directories, starter, store, timeouts)
    await Recovery(successor, lambda namespace, id: BUILTIN).run()
    return successor


async def test_recovery_finds_live_shims(
    manager: Manager, starter: Starter, store: Store, heard: Heard
) -> None:
    await create(manager)
    successor = await restart(manager, starter, store)
    assert (await successor.get("ns", "c1")).ledger.unfinished() == [("", PID)]
    assert heard.exits == []
    await starter.shims["c1"].die()
    await gone_for(successor)
    assert heard.exits == [("c1", PID, 137)]
    await successor.close()


async def test_recovery_journals_missed_exits_once(
    manager: Manager, starter: Starter, store: Store, heard: Heard
) -> None:
    await create(manager)
    bundle = (await manager.get("ns", "c1")).bundle
    shim = starter.shims["c1"]
    shim.state = api.StateResponse(pid=PID, status=STOPPED, exit_status=3, exited_at=timestamp(9))
    shim.execs["e1"] = api.StateResponse(pid=77, status=STOPPED, exit_status=5, exited_at=timestamp(8))
    shim.execs["e2"] = api.StateResponse(pid=78, status=RUNNING)
    Path(bundle.file("e1.pid")).write_text("77")
    Path(bundle.file("e2.pid")).write_text("78")
    for _ in range(2):
        manager = await restart(manager, starter, store)
        assert heard.exits == [("e1", 77, 5), ("c1", PID, 3)]
    assert (await manager.delete("ns", "c1")).exit_status == 3
    await manager.close()


async def test_recovery_buries_the_dead(
    manager: Manager, starter: Starter, store: Store, heard: Heard
) -> None:
    await create(manager)
    bundle = (await manager.get("ns", "c1")).bundle
    Path(bundle.file("init.pid")).write_text(str(PID))
    Path(bundle.file("e1.pid")).write_text("77")
    await manager.close()
    await starter.shims["c1"].die()
    successor = await restart(manager, starter, store)
    assert heard.exits == [("e1", 77, 137), ("c1", PID, 137)]
    assert heard.deletes == [("c1", 137)]
    assert list(successor.directories.bundles()) == []
    with pytest.raises(NotFound):
        await successor.get("ns", "c1")


async def test_recovery_lets_go_of_shims_without_a_task(
    manager: Manager, starter: Starter, store: Store, heard: Heard
) -> None:
    await create(manager)
    starter.shims["c1"].exists = False
    successor = await restart(manager, starter, store)
    assert "Shutdown" in starter.shims["c1"].calls
    assert list(successor.directories.bundles()) == []
    assert (heard.exits, heard.deletes) == ([], [])
    assert await create(successor) == PID
    await successor.close()


async def test_calls_wait_for_their_own_recovery(manager: Manager, starter: Starter, store: Store) -> None:
    await create(manager)
    await manager.close()
    successor = make_manager(manager.directories, starter, store)
    recovery = Recovery(successor, lambda namespace, id: BUILTIN)
    asked = [
        asyncio.create_task(successor.get("ns", "c1")),
        asyncio.create_task(successor.wait("ns", "c1", "")),
    ]
    listed = asyncio.create_task(successor.all("ns"))
    created = asyncio.create_task(create(successor))
    await asyncio.sleep(0.01)
    assert not any(each.done() for each in (*asked, listed, created))
    await recovery.run()
    assert [shim.id for shim in await listed] == ["c1"]
    with pytest.raises(AlreadyExists):
        await created
    starter.shims["c1"].ended.set()
    await asyncio.gather(*asked)
    await successor.close()


async def test_shim_that_hangs_at_boot_is_dead(
    manager: Manager, starter: Starter, store: Store, heard: Heard, short_tmp: Path
) -> None:
    await create(manager)
    bundle = (await manager.get("ns", "c1")).bundle
    Path(bundle.file("init.pid")).write_text(str(PID))
    await manager.close()
    await starter.shims["c1"].die()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    hanging = await asyncio.start_unix_server(never, starter.shims["c1"].path)
    successor = await restart(manager, starter, store, Timeouts(load=0.1, state=0.1, shutdown=0.1))
    assert heard.exits == [("c1", PID, 137)]
    hanging.close()
    await successor.close()
