"""Loggers of dockerd: what a container prints is recorded and passed on, whoever is or isn't there."""

# ruff: noqa: ASYNC240  (files are what is looked at here)

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio

from longshore.api.errors import Unimplemented
from longshore.dockerd.engine import Attachment, StdioPaths
from longshore.dockerd.logs.connection import connect
from longshore.dockerd.logs.manager import WARM, Logs
from longshore.dockerd.records import Container, ContainerConfig, HostConfig, LogConfig
from longshore.linux import processes
from longshore.zygote.client import Zygote


@pytest_asyncio.fixture
async def zygote() -> AsyncIterator[Zygote]:
    zygote = Zygote.spawn(warm=WARM)
    yield zygote
    await zygote.close()


@pytest.fixture
def logs(tmp_path: Path, zygote: Zygote) -> Logs:
    config = SimpleNamespace(exec_root=str(tmp_path / "x"), log_driver="json-file", log_opts={})
    return Logs(cast(Any, config), zygote)


def container(
    folder: Path, driver: str = "", options: dict[str, str] | None = None, **config: Any
) -> Container:
    return Container(
        id="c" * 64,
        name="c",
        created_ns=0,
        config=ContainerConfig(**config),
        host_config=HostConfig(log_config=LogConfig(type=driver, config=options)),
        image_id="sha256:" + "0" * 64,
        image_ref="busybox:latest",
        folder=str(folder),
    )


class Task:
    """A container's side of the FIFOs: both ends open, as a shim has them."""

    def __init__(self, paths: StdioPaths) -> None:
        self.stdout = os.open(paths.stdout, os.O_RDWR)
        self.stderr = os.open(paths.stderr, os.O_RDWR) if paths.stderr else -1
        self.stdin = os.open(paths.stdin, os.O_RDONLY | os.O_NONBLOCK) if paths.stdin else -1

    async def print(self, data: bytes, *, stderr: bool = False) -> None:
        fd = self.stderr if stderr else self.stdout
        await asyncio.to_thread(_write, fd, data)

    def exit(self) -> None:
        for fd in {self.stdout, self.stderr, self.stdin} - {-1}:
            os.close(fd)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


async def gather(attachment: Attachment) -> dict[str, bytes]:
    found = {"stdout": b"", "stderr": b""}
    async for stream, data in attachment.output():
        found[stream] += data
    await attachment.close()
    return found


async def lines(logs: Logs, box: Container, **options: Any) -> list[bytes]:
    options = {"follow": False, "tail": None, **options}
    return [entry.line async for entry in logs.read(box, **options)]


async def test_what_is_printed_is_recorded_and_passed_on(logs: Logs, tmp_path: Path) -> None:
    box = container(tmp_path)
    task_paths = await logs.open(box)
    attachment = await logs.attach(box)
    task = Task(task_paths)
    await task.print(b'one "two"\nthree\n')
    await task.print(b"oops\n", stderr=True)
    await task.print(b"no newline")
    task.exit()
    await logs.ended(box)
    assert await gather(attachment) == {"stdout": b'one "two"\nthree\nno newline', "stderr": b"oops\n"}
    records = [json.loads(line) for line in Path(box.log_path).read_text().splitlines()]
    assert [(r["stream"], r["log"]) for r in records if r["stream"] == "stdout"] == [
        ("stdout", 'one "two"\n'),
        ("stdout", "three\n"),
        ("stdout", "no newline"),
    ]
    assert set(await lines(logs, box)) == {b'one "two"\n', b"three\n", b"oops\n", b"no newline"}
    assert await lines(logs, box, tail=1) == [b"no newline"]
    await logs.remove(box)
    assert list(tmp_path.glob("*.log*")) == []
    assert not (tmp_path / "x/logs" / box.id).exists()


async def test_following_ends_with_the_streams(logs: Logs, tmp_path: Path) -> None:
    box = container(tmp_path)
    task = Task(await logs.open(box))
    await task.print(b"before\n")
    following = logs.read(box, follow=True, tail=None)
    assert (await anext(following)).line == b"before\n"
    await task.print(b"after\n")
    assert (await anext(following)).line == b"after\n"
    task.exit()
    assert [entry async for entry in following] == []


async def test_stdin_arrives_and_ends(logs: Logs, tmp_path: Path) -> None:
    box = container(tmp_path, open_stdin=True)
    task = Task(await logs.open(box))
    attachment = await logs.attach(box)
    text = bytes(range(256)) * 2000

    async def send() -> None:
        await attachment.write(text)
        await attachment.close_stdin()

    sending = asyncio.create_task(send())
    os.set_blocking(task.stdin, True)
    found = b""
    while part := await asyncio.to_thread(os.read, task.stdin, 65536):
        found += part
    assert found == text
    await sending
    task.exit()
    assert await gather(attachment) == {"stdout": b"", "stderr": b""}


async def test_a_task_that_was_never_made_ends_its_logger(logs: Logs, tmp_path: Path) -> None:
    box = container(tmp_path)
    await logs.open(box)
    assert await logs.running(box)
    await logs.ended(box)
    assert not await logs.running(box)
    await logs.remove(box)


async def test_the_container_waits_for_a_slow_client_and_the_log_misses_nothing(
    logs: Logs, tmp_path: Path
) -> None:
    box = container(tmp_path)
    task = Task(await logs.open(box))
    attachment = await logs.attach(box)
    text = b"x" * 99 + b"\n"
    printing = asyncio.create_task(task.print(text * 40_000))
    done, _ = await asyncio.wait({printing}, timeout=0.2)
    assert not done
    found = asyncio.create_task(gather(attachment))
    await printing
    task.exit()
    await logs.ended(box)
    assert (await found)["stdout"] == text * 40_000
    assert await lines(logs, box) == [text] * 40_000
    await logs.remove(box)


async def test_a_client_that_never_reads_does_not_outlast_the_task(logs: Logs, tmp_path: Path) -> None:
    """What is in the pipes when the task has ended is taken, so that who wrote it can end."""
    box = container(tmp_path)
    task = Task(await logs.open(box))
    attachment = await logs.attach(box)
    text = b"x" * 99 + b"\n"
    printing = asyncio.create_task(task.print(text * 40_000))
    done, _ = await asyncio.wait({printing}, timeout=0.2)
    assert not done
    ending = asyncio.create_task(logs.ended(box))
    await printing
    task.exit()
    await ending
    assert await lines(logs, box) == [text] * 40_000
    assert (await gather(attachment))["stdout"] == text * 40_000
    await logs.remove(box)


async def test_it_outlives_dockerd(zygote: Zygote, logs: Logs, tmp_path: Path) -> None:
    box = container(tmp_path)
    task = Task(await logs.open(box))
    attachment = await logs.attach(box)
    # What kill -9 leaves of dockerd: its zygote is gone, its connections are closed.
    await attachment.close()
    await zygote.close()
    text = b"".join(b"line %d\n" % number for number in range(900_000))
    assert len(text) > 10_000_000
    await task.print(text)
    task.exit()
    await logs.ended(box)
    assert b"".join(await lines(logs, box)) == text
    await logs.remove(box)


@pytest.mark.parametrize("taken_over", [False, True])
async def test_a_killed_logger_is_replaced(
    logs: Logs, zygote: Zygote, tmp_path: Path, taken_over: bool
) -> None:
    """Also while dockerd is dead; nothing that is printed meanwhile is lost, and nobody waits."""
    box = container(tmp_path)
    task = Task(await logs.open(box))
    await task.print(b"first\n")
    following = logs.read(box, follow=True, tail=None)
    assert (await anext(following)).line == b"first\n"
    with closing(await connect(logs.folder(box))) as connection:
        logger = processes.pidfd_open(connection.pid)
    if taken_over:
        await logs.close()
    processes.pidfd_send_signal(logger, signal.SIGKILL)
    await asyncio.to_thread(select.select, [logger], [], [])
    os.close(logger)
    await task.print(b"second\n")
    if taken_over:
        logs = Logs(logs._config, zygote)
        await logs.take_over([box])
    while not await logs.running(box):  # noqa: ASYNC110  (the replacement is nobody's to wait for)
        await asyncio.sleep(0.01)
    await task.print(b"third\n")
    task.exit()
    await logs.ended(box)
    assert [entry.line async for entry in following] == [b"second\n", b"third\n"]
    assert await lines(logs, box) == [b"first\n", b"second\n", b"third\n"]
    assert not await logs.running(box)
    await logs.remove(box)


@pytest.mark.parametrize("driver", ["json-file", "local"])
async def test_a_follower_misses_nothing_across_rotations(logs: Logs, tmp_path: Path, driver: str) -> None:
    box = container(tmp_path, driver, {"max-size": "20k", "max-file": "2", "compress": "false"})
    task = Task(await logs.open(box))
    following = logs.read(box, follow=True, tail=None)
    expected = []
    for number in range(3000):
        line = b"line %d\n" % number
        await task.print(line)
        expected.append((await anext(following)).line == line)
    assert all(expected)
    task.exit()
    assert [entry async for entry in following] == []
    await logs.remove(box)


@pytest.mark.parametrize("driver", ["json-file", "local"])
async def test_a_restarted_container_goes_on_in_its_log(logs: Logs, tmp_path: Path, driver: str) -> None:
    box = container(tmp_path, driver)
    for number in range(2):
        task = Task(await logs.open(box))
        await task.print(b"run %d\n" % number)
        task.exit()
        await logs.ended(box)
    assert await lines(logs, box) == [b"run 0\n", b"run 1\n"]
    await logs.remove(box)


async def test_none_keeps_nothing(logs: Logs, tmp_path: Path) -> None:
    box = container(tmp_path, "none")
    task = Task(await logs.open(box))
    attachment = await logs.attach(box)
    await task.print(b"gone\n")
    task.exit()
    assert (await gather(attachment))["stdout"] == b"gone\n"
    with pytest.raises(Unimplemented, match="configured logging driver does not support reading"):
        await lines(logs, box)
    await logs.remove(box)


async def test_a_process_left_behind_does_not_keep_the_log_open(logs: Logs, tmp_path: Path) -> None:
    box = container(tmp_path)
    task = Task(await logs.open(box))
    await task.print(b"last words\n")
    # The task has exited, but something still holds its streams.
    await logs.ended(box)
    assert await lines(logs, box) == [b"last words\n"]
    assert not await logs.running(box)
    task.exit()
    await logs.remove(box)
