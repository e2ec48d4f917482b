"""The zygote: workers, what becomes of those that fail, its own death, and shims."""

# ruff: noqa: ASYNC110, ASYNC240  (files and processes are what is looked at here)

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from longshore.api.runtime.task.v3 import shim_pb2 as api
from longshore.linux import files
from longshore.ttrpc.client import Client
from longshore.zygote.client import ShimRequest, WorkerDied, WorkerError, Zygote
from support import workers

TESTS = Path(__file__).parent.parent


@pytest.fixture
async def zygote(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Zygote]:
    monkeypatch.syspath_prepend(str(TESTS))
    monkeypatch.setenv("LONGSHORE_TEST_SECRET", "hush")
    made = Zygote.spawn()
    yield made
    await made.close()


def name(function: Any) -> str:
    return f"support.workers:{function.__name__}"


async def test_a_worker_answers(zygote: Zygote) -> None:
    value = {"text": "ünicode", "list": [1, 2.5, None, True], "big": "x" * 3_000_000}
    assert await zygote.call(name(workers.echo), value) == value


async def test_many_at_once(zygote: Zygote) -> None:
    answers = await asyncio.gather(*(zygote.call(name(workers.echo), number) for number in range(60)))
    assert answers == list(range(60))


async def test_descriptors_are_passed_and_stay_ours(zygote: Zygote) -> None:
    pipes = [os.pipe() for _ in range(3)]
    for number, (_, write) in enumerate(pipes):
        os.write(write, f"pipe {number}".encode())
    assert await zygote.call(name(workers.read), None, [r for r, _ in pipes]) == [
        "pipe 0",
        "pipe 1",
        "pipe 2",
    ]
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)


async def test_a_worker_has_no_secrets_and_no_descriptors(zygote: Zygote) -> None:
    seen = await zygote.call(name(workers.environment), None)
    assert seen["parent"] == zygote.pid
    assert "LONGSHORE_TEST_SECRET" not in seen["environment"]
    assert len(seen["fds"]) == 4  # 0, 1, 2 and the reply socket


async def test_a_worker_goes_on_without_the_zygote(zygote: Zygote) -> None:
    (read, write), (told, tell) = os.pipe(), os.pipe()
    answer = await zygote.call(name(workers.go_on), None, [read, tell])
    os.close(read)
    os.close(tell)
    os.kill(zygote.pid, signal.SIGKILL)
    assert await zygote.call(name(workers.echo), "of the next one") == "of the next one"
    os.write(write, b"still there")
    os.close(write)
    assert await asyncio.to_thread(os.read, told, 100) == b"%d: still there" % answer["pid"]
    assert await asyncio.to_thread(os.read, told, 100) == b""
    os.close(told)


async def test_errors_and_deaths(zygote: Zygote) -> None:
    with pytest.raises(WorkerError) as caught:
        await zygote.call(name(workers.fail), None)
    assert (caught.value.kind, caught.value.message) == ("KeyError", "'the reason'")
    with pytest.raises(WorkerError) as caught:
        await zygote.call("no.such.module:function", None)
    assert caught.value.kind == "ModuleNotFoundError"
    with pytest.raises(WorkerDied):
        await zygote.call(name(workers.die), None)
    assert await zygote.call(name(workers.echo), "still there") == "still there"


async def test_a_cancelled_call_kills_its_worker(zygote: Zygote, tmp_path: Path) -> None:
    call = asyncio.create_task(zygote.call(name(workers.write_and_hang), str(tmp_path / "pid")))
    pid = await pid_in(tmp_path / "pid")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not alive(pid)


async def test_the_number_of_a_call_that_was_cancelled_twice_serves_the_next_file(
    zygote: Zygote, tmp_path: Path
) -> None:
    call = asyncio.create_task(zygote.call(name(workers.write_and_hang), str(tmp_path / "pid")))
    pid = await pid_in(tmp_path / "pid")
    for _ in range(3):
        call.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not alive(pid)
    (left, to_left), (right, to_right) = [
        await asyncio.open_connection(sock=end) for end in socket.socketpair()
    ]
    async with asyncio.timeout(60):
        to_left.write(b"to the right")
        assert await right.read(100) == b"to the right"
        to_right.write(b"to the left")
        assert await left.read(100) == b"to the left"
    for writer in (to_left, to_right):
        writer.close()
        await writer.wait_closed()


async def test_workers_die_with_a_killed_zygote_and_the_next_call_has_a_new_one(
    zygote: Zygote, tmp_path: Path
) -> None:
    first = zygote.pid
    call = asyncio.create_task(zygote.call(name(workers.write_and_hang), str(tmp_path / "pid")))
    pid = await pid_in(tmp_path / "pid")
    os.kill(first, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        await call
    await gone(pid)
    assert await zygote.call(name(workers.echo), "back") == "back"
    assert zygote.pid != first


async def test_killed_before_it_took_the_request(zygote: Zygote) -> None:
    os.kill(zygote.pid, signal.SIGSTOP)
    call = asyncio.create_task(zygote.call(name(workers.echo), "asked of the first"))
    await asyncio.sleep(0.05)
    os.kill(zygote.pid, signal.SIGKILL)
    assert await call == "asked of the first"


async def test_ends_with_its_daemon(zygote: Zygote) -> None:
    await zygote.call(name(workers.echo), None)
    pid = zygote.pid
    zygote._control.close()
    await gone(pid)
    with pytest.raises(WorkerDied):
        await zygote.close()
        await zygote.call(name(workers.echo), None)


async def test_the_executable_is_sealed(zygote: Zygote) -> None:
    assert await zygote.call(name(workers.executable_is_writable), None) in (
        "Read-only file system",
        "Operation not permitted",
        "Text file busy",
    )


async def test_a_shim_outlives_the_zygote(zygote: Zygote, short_tmp: Path) -> None:
    started = await zygote.start_shim(request(short_tmp, "c1"))
    assert (started.version, started.protocol) == (3, "ttrpc")
    await zygote.close()
    with Client(started.address) as client:
        answer = client.call(
            "containerd.task.v3.Task", "Connect", api.ConnectRequest(id="c1"), api.ConnectResponse
        )
        assert (answer.shim_pid, answer.task_pid) == (started.pid, 0)
        environment = files.read_bounded(f"/proc/{started.pid}/environ")
        assert b"LONGSHORE_TEST_SECRET" not in environment
        assert b"-id c1" in files.read_bounded(f"/proc/{started.pid}/cmdline")
        assert files.read_bounded(f"/proc/{started.pid}/comm") == b"longshore-shim\n"
        client.call("containerd.task.v3.Task", "Shutdown", api.ShutdownRequest(id="c1"), api.StateResponse)
    await gone(started.pid)
    assert not os.path.exists(started.address.removeprefix("unix://"))


async def test_a_group_gets_one_shim(zygote: Zygote, short_tmp: Path) -> None:
    annotations = {"io.kubernetes.cri.sandbox-id": "pod"}
    requests = [request(short_tmp, f"c{n}", annotations) for n in range(5)]
    started = await asyncio.gather(*(zygote.start_shim(each) for each in requests))
    assert len({(shim.pid, shim.address) for shim in started}) == 1
    lone = await zygote.start_shim(request(short_tmp, "lone"))
    assert lone.address != started[0].address
    for shim in (started[0], lone):
        os.kill(shim.pid, signal.SIGTERM)
        await gone(shim.pid)


async def test_a_dead_shims_socket_is_replaced(zygote: Zygote, short_tmp: Path) -> None:
    first = await zygote.start_shim(request(short_tmp, "c1"))
    os.kill(first.pid, signal.SIGKILL)
    await gone(first.pid)
    second = await zygote.start_shim(request(short_tmp, "c1"))
    assert second.address == first.address and second.pid != first.pid
    os.kill(second.pid, signal.SIGTERM)
    await gone(second.pid)


async def test_a_shim_that_cannot_start_says_why(zygote: Zygote, short_tmp: Path) -> None:
    (short_tmp / "file").touch()
    with pytest.raises(WorkerError, match=r"Not a directory|File exists"):
        await zygote.start_shim(request(short_tmp, "c1")._replace(socket_dir=str(short_tmp / "file")))
    with pytest.raises(WorkerError, match="too long"):
        await zygote.start_shim(request(short_tmp, "c1")._replace(socket_dir=f"{short_tmp}/{'x' * 60}"))


async def test_other_users_are_refused(zygote: Zygote, short_tmp: Path) -> None:
    short_tmp.chmod(0o755)
    shim = await zygote.start_shim(request(short_tmp, "c1"))
    path = shim.address.removeprefix("unix://")
    os.chmod(os.path.dirname(path), 0o755)
    os.chmod(path, 0o666)
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(OSError):
            os.setuid(65534)
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(path)
            status = 0 if peer.recv(1) == b"" else 2
        os._exit(status)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    os.kill(shim.pid, signal.SIGTERM)
    await gone(shim.pid)


def request(folder: Path, id: str, annotations: dict[str, str] | None = None) -> ShimRequest:
    bundle = folder / id
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").write_text(json.dumps({"annotations": annotations or {}}))
    return ShimRequest("ns", id, str(bundle), f"{folder}/d.sock", socket_dir=str(folder / "s"))


async def pid_in(path: Path) -> int:
    async with asyncio.timeout(60):
        while not (path.exists() and path.read_text()):
            await asyncio.sleep(0.01)
    return int(path.read_text())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while alive(pid):
        assert time.monotonic() < deadline, f"{pid} is still there"
        await asyncio.sleep(0.01)
