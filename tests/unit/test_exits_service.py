"""The exit stream over a real gRPC server, with a client that plays the shim."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from longshore.api.errors import ResourceExhausted
from longshore.api.events.task_pb2 import TaskDelete, TaskExit
from longshore.api.services.exits.v1.exits_pb2 import ReportRequest
from longshore.api.services.exits.v1.exits_pb2_grpc import ExitsStub, add_ExitsServicer_to_server
from longshore.api.types.event_pb2 import Envelope
from longshore.api.typeurls import pack
from longshore.containerd import rpc
from longshore.containerd.exits import service as service_module
from longshore.containerd.exits.service import ExitsService
from longshore.containerd.metadata.store import Store
from longshore.containerd.tasks.journal import Journal, Life
from longshore.containerd.tasks.ledger import Exit
from longshore.containerd.times import timestamp

EVER = Life(-1, 0)
INSTANCE = "0123456789abcdef0123456789abcdef"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "meta.sqlite")
    yield store
    store.close()


@pytest.fixture
async def journal(store: Store) -> Journal:
    return Journal(store)


class Gate:
    """A journal that waits when told to, and notes its batches."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.open = asyncio.Event()
        self.open.set()
        self.batches: list[int] = []
        self.failure: Exception | None = None

    async def report(self, reports: Sequence[ReportRequest]) -> None:
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        await self._journal.report(reports)
        self.batches.append(len(reports))


@pytest.fixture
async def gate(journal: Journal) -> Gate:
    return Gate(journal)


@pytest.fixture
async def service(gate: Gate) -> ExitsService:
    return ExitsService(gate)


@pytest.fixture
async def stub(service: ExitsService, short_tmp: Path) -> AsyncIterator[Any]:
    registrar = rpc.Registrar()
    add_ExitsServicer_to_server(service, registrar)  # type: ignore[arg-type]
    server = grpc.aio.server(handlers=[registrar])
    server.add_insecure_port(f"unix:{short_tmp}/s")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{short_tmp}/s") as channel:
        yield ExitsStub(channel)
    await server.stop(None)


def report(sequence: int, *, instance: str = INSTANCE, **fields: Any) -> ReportRequest:
    """The exit of container c<sequence>, unless told otherwise."""
    id = f"c{sequence}"
    event = TaskExit(
        **{"container_id": id, "id": id, "pid": sequence, "exited_at": timestamp(sequence), **fields}
    )
    envelope = Envelope(timestamp=timestamp(sequence), namespace="ns", topic="/tasks/exit", event=pack(event))
    return ReportRequest(instance=instance, sequence=sequence, envelope=envelope)


def journalled(store: Store) -> list[tuple[str, Any]]:
    def read(connection: sqlite3.Connection) -> list[tuple[str, Any]]:
        rows = connection.execute("SELECT topic, value FROM events ORDER BY sequence").fetchall()
        kinds: dict[str, Any] = {"/tasks/exit": TaskExit, "/tasks/delete": TaskDelete}
        return [(topic, kinds[topic].FromString(value)) for topic, value in rows]

    return store.read(read)


def exits(store: Store) -> list[tuple[str, int, int]]:
    return [
        (event.id, event.pid, event.exit_status)
        for topic, event in journalled(store)
        if topic == "/tasks/exit"
    ]


async def test_acknowledged_means_durable(stub: Any, store: Store, gate: Gate) -> None:
    gate.open.clear()
    call = stub.Report()
    await call.write(report(1))
    reading = asyncio.ensure_future(call.read())
    await asyncio.sleep(0)
    assert not reading.done()
    gate.open.set()
    assert (await reading).acknowledged == 1
    assert exits(store) == [("c1", 1, 0)]
    call.cancel()


async def test_what_arrives_meanwhile_is_one_batch(stub: Any, store: Store, gate: Gate) -> None:
    gate.open.clear()
    call = stub.Report()
    for sequence in range(1, 101):
        await call.write(report(sequence))
    await call.done_writing()
    gate.open.set()
    acknowledged = [answer.acknowledged async for answer in call]
    assert acknowledged[-1] == 100 and acknowledged == sorted(acknowledged)
    assert len(gate.batches) < 50
    assert [pid for _, pid, _ in exits(store)] == list(range(1, 101))


def beginning(sequence: int) -> ReportRequest:
    made = report(sequence)
    made.envelope.topic = "/tasks/create"
    return made


async def test_a_beginning_waits_for_what_follows(
    stub: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_PATIENCE", 3600.0)
    call = stub.Report()
    for sequence in (1, 2):
        await call.write(beginning(sequence))
    await call.write(report(3))
    assert (await call.read()).acknowledged == 3
    await call.write(beginning(4))
    await call.done_writing()
    assert (await call.read()).acknowledged == 4
    assert gate.batches == [3, 1]


async def test_a_beginning_does_not_wait_for_ever(
    stub: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_PATIENCE", 0.0)
    call = stub.Report()
    for sequence in (1, 2):
        await call.write(beginning(sequence))
        assert (await call.read()).acknowledged == sequence
    call.cancel()


async def test_repeated_reports_count_once(stub: Any, store: Store) -> None:
    for _ in range(2):  # the second time after a lost connection
        call = stub.Report()
        for sequence in (1, 2, 3):
            await call.write(report(sequence))
        await call.done_writing()
        assert [answer.acknowledged async for answer in call][-1] == 3
    assert len(exits(store)) == 3


async def test_hopeless_reports_are_dropped_and_acknowledged(stub: Any, store: Store) -> None:
    call = stub.Report()
    bad = report(1)
    bad.envelope.topic = "no slash"
    timeless = report(2)
    timeless.envelope.ClearField("timestamp")
    for each in (bad, timeless, report(3)):
        await call.write(each)
    await call.done_writing()
    assert [answer.acknowledged async for answer in call][-1] == 3
    assert exits(store) == [("c3", 3, 0)]


async def test_full_disk_ends_the_stream_unacknowledged(stub: Any, store: Store, gate: Gate) -> None:
    gate.failure = ResourceExhausted("no space left on device: resource exhausted")
    call = stub.Report()
    await call.write(report(1))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    gate.failure = None
    again = stub.Report()
    await again.write(report(1))
    assert (await again.read()).acknowledged == 1
    assert len(exits(store)) == 1
    again.cancel()


async def test_broken_connection_keeps_what_was_sent(stub: Any, store: Store, gate: Gate) -> None:
    gate.open.clear()
    call = stub.Report()
    await call.write(report(1))
    call.cancel()
    gate.open.set()
    again = stub.Report()
    await again.write(report(1))
    assert (await again.read()).acknowledged == 1
    assert len(exits(store)) == 1
    again.cancel()


async def test_stop_ends_streams(stub: Any, service: ExitsService) -> None:
    call = stub.Report()
    await call.write(report(1))
    await call.read()
    service.stop()
    assert await asyncio.wait_for(call.read(), 60) is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_the_same_exit_by_another_way_counts_once(store: Store, journal: Journal) -> None:
    """A shim's stream, Go's forwarding and the daemon's own look at boot."""
    await journal.report([report(1, exit_status=3)])
    await journal.found("ns", "c1", [Exit("", 1, 3, timestamp(1))])
    await journal.forward(report(1, exit_status=3).envelope)
    assert exits(store) == [("c1", 1, 3)]


async def test_another_life_of_a_container_has_exits_of_its_own(store: Store, journal: Journal) -> None:
    await journal.found("ns", "c1", [Exit("", 1, 3, timestamp(1))])
    await journal.found("ns", "c1", [Exit("", 1, 3, timestamp(2))])
    await journal.found("other", "c1", [Exit("", 1, 3, timestamp(1))])
    assert len(exits(store)) == 3


async def test_burial_tells_what_is_missing(store: Store, journal: Journal) -> None:
    await journal.found("ns", "c1", [Exit("e1", 11, 5, timestamp(10))])
    made_up = [
        Exit("e1", 11, 137, timestamp(99)),
        Exit("e2", 12, 137, timestamp(99)),
        Exit("", 10, 137, timestamp(99)),
    ]
    for _ in range(2):  # a daemon that dies right after this does it all again
        delete = TaskDelete(container_id="c1", pid=10, exit_status=137, exited_at=timestamp(99))
        await journal.buried("ns", "c1", EVER, made_up, delete)
    assert exits(store) == [("e1", 11, 5), ("e2", 12, 137), ("c1", 10, 137)]
    assert [topic for topic, _ in journalled(store)].count("/tasks/delete") == 1


async def test_burial_ignores_earlier_lives(store: Store, journal: Journal) -> None:
    await journal.buried("ns", "c1", EVER, [Exit("", 10, 1, timestamp(1))], TaskDelete(container_id="c1"))
    began = Life(
        -1, store.read(lambda c: int(c.execute("SELECT max(journalled) FROM events").fetchone()[0])) + 1
    )
    await journal.buried("ns", "c1", began, [Exit("", 10, 137, timestamp(2))], TaskDelete(container_id="c1"))
    assert exits(store) == [("c1", 10, 1), ("c1", 10, 137)]
    assert [topic for topic, _ in journalled(store)].count("/tasks/delete") == 2


async def test_earlier_lives_are_those_before_whatever_the_clock_says(
    store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await journal.buried("ns", "c1", EVER, [Exit("", 10, 1, timestamp(1))], TaskDelete(container_id="c1"))
    monkeypatch.setattr("longshore.containerd.metadata.store.time.time_ns", lambda: 1)
    began = Life(journal.head(), 2)
    for _ in range(2):
        await journal.buried(
            "ns", "c1", began, [Exit("", 10, 137, timestamp(2))], TaskDelete(container_id="c1")
        )
    assert exits(store) == [("c1", 10, 1), ("c1", 10, 137)]
    assert [topic for topic, _ in journalled(store)].count("/tasks/delete") == 2


async def test_deletion_tells_the_known_status(store: Store, journal: Journal) -> None:
    await journal.found("ns", "c1", [Exit("", 10, 7, timestamp(5))])
    delete = TaskDelete(container_id="c1", pid=10, exit_status=137, exited_at=timestamp(99))
    await journal.buried("ns", "c1", EVER, [Exit("", 10, 137, timestamp(99))], delete)
    deleted = [event for topic, event in journalled(store) if topic == "/tasks/delete"]
    assert [(event.exit_status, event.exited_at) for event in deleted] == [(7, timestamp(5))]


async def test_what_came_over_the_stream_is_known(journal: Journal) -> None:
    assert not journal.has(report(1))
    await journal.report([report(1), report(2)])
    assert journal.has(report(1)) and journal.has(report(2))
    assert not journal.has(report(3)) and not journal.has(report(1, instance="other"))


async def test_what_was_left_in_one_bundle_says_nothing_of_others(journal: Journal) -> None:
    """A group's shim numbers the events of all its containers; each bundle has its own."""
    await journal.left_behind([report(2)])
    assert not journal.has(report(1))
