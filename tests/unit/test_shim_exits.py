"""The exit stream against grpc.aio: order, acknowledgement, and daemons that come and go."""

# ruff: noqa: ASYNC110

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import pytest

from longshore.api.events.task_pb2 import TaskExit, TaskOOM
from longshore.api.services.exits.v1 import exits_pb2, exits_pb2_grpc
from longshore.shim.events import Journal
from longshore.shim.exits import ExitStream
from longshore.shim.loop import Loop


class Exits(exits_pb2_grpc.ExitsServicer):
    """Keeps what it is told; acknowledges while `durable`."""

    def __init__(self) -> None:
        self.reports: list[exits_pb2.ReportRequest] = []
        self.durable = True
        self.hang_up_after = 0

    async def Report(
        self, request_iterator: AsyncIterator[exits_pb2.ReportRequest], context: object
    ) -> AsyncIterator[exits_pb2.ReportResponse]:
        count = 0
        async for report in request_iterator:
            self.reports.append(report)
            count += 1
            if self.hang_up_after and count >= self.hang_up_after:
                return
            if self.durable:
                yield exits_pb2.ReportResponse(acknowledged=report.sequence)

    def sequences(self) -> list[int]:
        return [report.sequence for report in self.reports]


@asynccontextmanager
async def daemon(path: Path, servicer: Exits) -> AsyncIterator[None]:
    server = grpc.aio.server()
    exits_pb2_grpc.add_ExitsServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


class Shim:
    """A loop in a thread with an exit stream."""

    def __init__(self, address: Path, bundle: Path) -> None:
        self.loop = Loop()
        self.journal = Journal(str(bundle))
        self.stream = ExitStream(self.loop)
        self.stream.begin(str(address), "default")
        self._stop = False
        self._calls: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def publish(self, number: int) -> None:
        exit_event = TaskExit(container_id="c", id="c", exit_status=number)
        self._calls.append(lambda: self.stream.publish(self.journal, "/tasks/exit", exit_event))

    def stop(self) -> None:
        self._stop = True
        self._thread.join()
        self.stream.drop("test ends")
        self.loop.close()

    def _run(self) -> None:
        def tick() -> None:
            while self._calls:
                self._calls.pop(0)()
            self.loop.later(0.002, tick)

        tick()
        while not self._stop:
            self.loop.turn()


@contextmanager
def shim(address: Path, bundle: Path) -> Iterator[Shim]:
    made = Shim(address, bundle)
    try:
        yield made
    finally:
        made.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def events_file(tmp_path: Path) -> Path:
    return tmp_path / "events"


async def test_reports_in_order_and_empties_its_file(tmp_path: Path, events_file: Path) -> None:
    servicer = Exits()
    async with daemon(tmp_path / "d.sock", servicer):
        with shim(tmp_path / "d.sock", tmp_path) as one:
            for number in range(100):
                one.publish(number)
            await until(lambda: len(servicer.reports) == 100 and one.stream.idle())
            assert servicer.sequences() == list(range(1, 101))
            assert len({report.instance for report in servicer.reports}) == 1
            envelope = servicer.reports[7].envelope
            assert (envelope.namespace, envelope.topic) == ("default", "/tasks/exit")
            assert envelope.event.type_url == "containerd.events.TaskExit"
            assert TaskExit.FromString(envelope.event.value).exit_status == 7
    assert size(events_file) == 0


async def test_unacknowledged_events_stand_in_the_file_and_are_sent_again(
    tmp_path: Path, events_file: Path
) -> None:
    forgetful, mindful = Exits(), Exits()
    forgetful.durable = False
    with shim(tmp_path / "d.sock", tmp_path) as one:
        one.publish(0)  # before there is a daemon at all
        async with daemon(tmp_path / "d.sock", forgetful):
            one.publish(1)
            await until(lambda: forgetful.sequences() == [1, 2])
        one.publish(2)
        await until(lambda: len(records(events_file)) == 3)
        assert [record.sequence for record in records(events_file)] == [1, 2, 3]
        async with daemon(tmp_path / "d.sock", mindful):
            await until(lambda: one.stream.idle())
    assert mindful.sequences() == [1, 2, 3]
    assert [r.SerializeToString() for r in mindful.reports[:2]] == [
        r.SerializeToString() for r in forgetful.reports
    ]
    assert size(events_file) == 0


async def test_many_restarts_lose_nothing(tmp_path: Path, events_file: Path) -> None:
    servicer = Exits()
    servicer.hang_up_after = 7
    with shim(tmp_path / "d.sock", tmp_path) as one:
        for number in range(60):
            one.publish(number)
        await until(lambda: len(records(events_file)) == 60)
        for _ in range(3):
            async with daemon(tmp_path / "d.sock", servicer):
                target = len(servicer.reports) + 7
                await until(lambda target=target: len(servicer.reports) >= target or one.stream.idle())  # type: ignore[misc]
        servicer.hang_up_after = 0
        async with daemon(tmp_path / "d.sock", servicer):
            await until(lambda: one.stream.idle())
    unique = list(dict.fromkeys(servicer.sequences()))
    assert unique == list(range(1, 61))


class Other(grpc.GenericRpcHandler):
    """A daemon that knows no method, and notes that it was asked for one."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> None:
        self.asked.set()


async def test_a_daemon_without_the_service_is_asked_again(tmp_path: Path) -> None:
    other = Other()
    server = grpc.aio.server(handlers=[other])
    server.add_insecure_port(f"unix:{tmp_path}/d.sock")
    await server.start()
    with shim(tmp_path / "d.sock", tmp_path) as one:
        one.publish(0)
        await asyncio.wait_for(other.asked.wait(), 60)
        await until(lambda: not one.stream.idle())  # it is another thread that publishes
        await server.stop(None)
        servicer = Exits()
        async with daemon(tmp_path / "d.sock", servicer):
            await until(lambda: one.stream.idle())
    assert servicer.sequences() == [1]


async def test_events_larger_than_a_frame_and_a_window(tmp_path: Path) -> None:
    servicer = Exits()
    async with daemon(tmp_path / "d.sock", servicer):
        with shim(tmp_path / "d.sock", tmp_path) as one:
            big = TaskOOM(container_id="x" * 200_000)
            one._calls.append(lambda: one.stream.publish(one.journal, "/tasks/oom", big))
            await until(lambda: bool(servicer.reports) and one.stream.idle())
    assert TaskOOM.FromString(servicer.reports[0].envelope.event.value) == big


def size(path: Path) -> int:
    return path.stat().st_size


def records(path: Path) -> list[exits_pb2.ReportRequest]:
    """Those that are whole: one may just be written."""
    data, found = path.read_bytes() if path.exists() else b"", []
    while len(data) >= (end := 4 + int.from_bytes(data[:4], "big")) > 4:
        found.append(exits_pb2.ReportRequest.FromString(data[4:end]))
        data = data[end:]
    return found
