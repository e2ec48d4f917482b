"""A real shim's exit stream, its daemon coming and going: nothing lost, nothing out of order."""

from __future__ import annotations

# ruff: noqa: ASYNC110  (processes and files are what is looked at here)
import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from longshore.api import typeurls
from longshore.api.runtime.task.v3 import shim_pb2 as api
from longshore.api.services.exits.v1 import exits_pb2, exits_pb2_grpc
from longshore.api.types.runc.options.oci_pb2 import Options
from longshore.zygote.client import ShimRequest, Zygote
from support import images, leaks
from support.shims import EVENTS, Task

Report = exits_pb2.ReportRequest


class Journal(exits_pb2_grpc.ExitsServicer):
    """A daemon's journal: each event once, by (instance, sequence)."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, int], Report] = {}
        self.acknowledging = True

    async def Report(
        self, request_iterator: AsyncIterator[Report], context: object
    ) -> AsyncIterator[exits_pb2.ReportResponse]:
        async for report in request_iterator:
            self.events.setdefault((report.instance, report.sequence), report)
            if self.acknowledging:
                yield exits_pb2.ReportResponse(acknowledged=report.sequence)

    def add_file(self, path: Path) -> None:
        """What a daemon does with the file of a shim that died."""
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:4], "big")
            report = Report.FromString(data[4 : 4 + length])
            self.events.setdefault((report.instance, report.sequence), report)
            data = data[4 + length :]

    def story(self) -> list[tuple[str, Any]]:
        found = []
        for key in sorted(self.events, key=lambda key: key[1]):
            envelope = self.events[key].envelope
            name = typeurls.type_name(envelope.event) or envelope.event.type_url
            found.append((envelope.topic, EVENTS[name].FromString(envelope.event.value)))
        return found

    def topics(self) -> list[str]:
        return [topic for topic, _ in self.story()]


@asynccontextmanager
async def daemon(address: Path, journal: Journal) -> AsyncIterator[None]:
    server = grpc.aio.server()
    exits_pb2_grpc.add_ExitsServicer_to_server(journal, server)
    server.add_insecure_port(f"unix:{address}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def zygote() -> AsyncIterator[Zygote]:
    made = Zygote.spawn()
    yield made
    await made.close()


@pytest.fixture
async def task(zygote: Zygote, short_tmp: Path) -> AsyncIterator[Task]:
    namespace = f"t{uuid.uuid4().hex[:8]}"
    watch = leaks.Watch([short_tmp], [namespace])
    rootfs = images.busybox_rootfs(short_tmp)
    made = Task(short_tmp, "c1", namespace, rootfs, Options(root=str(short_tmp / "runtime")))
    made.write_spec()
    address = str(short_tmp / "d.sock")
    started = await zygote.start_shim(
        ShimRequest(
            namespace,
            "c1",
            str(made.bundle),
            address,
            exits_address=address,
            socket_dir=str(short_tmp / "s"),
        )
    )
    made.address = started.address
    yield made
    async with daemon(Path(address), Journal()):  # to tell its last events to, or it would wait
        await asyncio.to_thread(made.clean)
        await asyncio.to_thread(watch.check)


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a thread: the test's own loop serves the daemon that the shim reports to."""
    return await asyncio.to_thread(function, *arguments)


async def test_events_while_no_daemon_is_there(task: Task, short_tmp: Path) -> None:
    first, second = Journal(), Journal()
    async with daemon(short_tmp / "d.sock", first):
        await call(task.create)
        await call(task.start)
        await until(lambda: first.topics() == ["/tasks/create", "/tasks/start"])
        # Acknowledged, too: what isn't comes again, and would stand in the second journal.
        await until(lambda: (task.bundle / "events").stat().st_size == 0)
    await call(task.exec, "e1", ["/bin/sh", "-c", "exit 4"])
    await call(task.start, "e1")
    assert await call(task.wait, "e1") == 4
    await call(task.kill)
    assert await call(task.wait) == 137
    assert (task.bundle / "events").stat().st_size > 0
    async with daemon(short_tmp / "d.sock", second):
        await until(lambda: len(second.events) == 4)
        assert second.topics() == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit", "/tasks/exit"]
        assert [event.exit_status for topic, event in second.story() if topic == "/tasks/exit"] == [4, 137]
        await until(lambda: (task.bundle / "events").stat().st_size == 0)
        await call(task.delete)
        await until(lambda: "/tasks/delete" in second.topics())
    assert {instance for instance, _ in first.events} == {instance for instance, _ in second.events}


async def test_nothing_twice_when_acknowledgements_are_lost(task: Task, short_tmp: Path) -> None:
    journal = Journal()
    journal.acknowledging = False
    async with daemon(short_tmp / "d.sock", journal):
        await call(task.create)
        await call(task.start)
        await until(lambda: len(journal.events) == 2)
    journal.acknowledging = True
    async with daemon(short_tmp / "d.sock", journal):
        await call(task.kill)
        await until(lambda: len(journal.events) == 3)
        await until(lambda: (task.bundle / "events").stat().st_size == 0)
    assert journal.topics() == ["/tasks/create", "/tasks/start", "/tasks/exit"]


async def test_the_file_of_a_killed_shim_tells_the_rest(zygote: Zygote, task: Task, short_tmp: Path) -> None:
    journal = Journal()
    async with daemon(short_tmp / "d.sock", journal):
        pid = await call(task.create)
        await call(task.start)
        await until(lambda: len(journal.events) == 2)
        await until(lambda: (task.bundle / "events").stat().st_size == 0)
    await call(task.kill)
    await call(task.wait)
    shim = await call(task.call, "Connect", api.ConnectRequest(id="c1"), api.ConnectResponse)
    os.kill(shim.shim_pid, signal.SIGKILL)
    journal.add_file(task.bundle / "events")
    assert journal.topics() == ["/tasks/create", "/tasks/start", "/tasks/exit"]
    assert journal.story()[-1][1].pid == pid
    # The daemon's other duty: a worker removes what the shim left.
    arguments = {"namespace": task.namespace, "id": "c1", "bundle": str(task.bundle)}
    removed = await zygote.call("longshore.shim.remove:delete", arguments)
    assert (removed["pid"], removed["exit_status"]) == (pid, 137)


async def test_shutdown_waits_until_all_is_told(task: Task, short_tmp: Path) -> None:
    journal = Journal()
    await call(task.create)
    await call(task.delete)
    shim = await call(task.call, "Connect", api.ConnectRequest(id="c1"), api.ConnectResponse)
    await call(task.shutdown)
    async with daemon(short_tmp / "d.sock", journal):
        await until(lambda: journal.topics() == ["/tasks/create", "/tasks/exit", "/tasks/delete"])
        await until(lambda: not Path(f"/proc/{shim.shim_pid}").exists())
    assert (task.bundle / "events").stat().st_size == 0


async def test_twenty_restarts_during_a_storm(task: Task, short_tmp: Path) -> None:
    journal = Journal()
    async with daemon(short_tmp / "d.sock", journal):
        await call(task.create)
        await call(task.start)

    async def storm(worker: int) -> None:
        for number in range(5):
            name = f"e{worker}-{number}"
            await call(task.exec, name, ["/bin/sh", "-c", f"exit {number}"])
            await call(task.start, name)
            assert await call(task.wait, name) == number
            await call(task.delete, name)

    running = asyncio.gather(*(storm(worker) for worker in range(4)))
    for _ in range(20):
        async with daemon(short_tmp / "d.sock", journal):
            await asyncio.sleep(0.02)
    await running
    async with daemon(short_tmp / "d.sock", journal):
        await until(lambda: (task.bundle / "events").stat().st_size == 0)
    assert sorted(sequence for _, sequence in journal.events) == list(range(1, 2 + 3 * 20 + 1))
    exits = [event for topic, event in journal.story() if topic == "/tasks/exit"]
    assert {event.id: event.exit_status for event in exits} == {
        f"e{worker}-{number}": number for worker in range(4) for number in range(5)
    }
