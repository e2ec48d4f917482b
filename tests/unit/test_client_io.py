"""Pipes: who opens what when, back-pressure, end of file, and what stays on disk."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from longshore.client.io import LogURI, Null, Paths, Pipes, Reader, Streams, open_streams


async def nothing() -> None:
    pass


class Shim:
    """Opens its ends as a shim does: outputs both ways, so that a vanished reader kills nobody."""

    def __init__(self, paths: Paths) -> None:
        self.stdin = os.open(paths.stdin, os.O_RDONLY | os.O_NONBLOCK) if paths.stdin else -1
        self.outputs = {path: os.open(path, os.O_RDWR) for path in (paths.stdout, paths.stderr) if path}

    def write(self, path: str, data: bytes) -> None:
        os.write(self.outputs[path], data)

    def close(self) -> None:
        for fd in (self.stdin, *self.outputs.values()):
            if fd >= 0:
                os.close(fd)


async def test_output_arrives_and_ends(tmp_path: Path) -> None:
    streams = Streams(str(tmp_path / "fifo"), "c", Pipes())
    shim = Shim(streams.paths)
    streams.attach(nothing)
    assert streams.stdout is not None and streams.stderr is not None
    reading = asyncio.ensure_future(streams.stdout.read())
    shim.write(streams.paths.stdout, b"one")
    shim.write(streams.paths.stderr, b"two")
    assert await streams.stderr.read_block() == b"two"
    shim.close()
    assert await reading == b"one"
    assert await streams.stderr.read() == b""
    streams.close()
    assert os.listdir(tmp_path) == []


async def test_input_waits_while_the_pipe_is_full_then_ends(tmp_path: Path) -> None:
    streams = Streams(str(tmp_path / "fifo"), "c", Pipes(stdin=True, stdout=False, stderr=False))
    shim = Shim(streams.paths)
    closed = []

    async def close_stdin() -> None:
        closed.append(True)

    streams.attach(close_stdin)
    assert streams.stdin is not None
    writing = asyncio.ensure_future(streams.stdin.write(b"x" * 200_000))
    await asyncio.wait([writing], timeout=0.05)
    assert not writing.done()
    read = 0
    while read < 200_000:
        await asyncio.sleep(0)
        try:
            read += len(os.read(shim.stdin, 65536))
        except BlockingIOError:
            continue
    await writing
    await streams.stdin.close()
    assert closed == [True]
    assert os.read(shim.stdin, 1) == b""
    with pytest.raises(BrokenPipeError):
        await streams.stdin.write(b"late")
    shim.close()
    streams.close()


async def test_writing_to_a_process_that_is_gone_fails(tmp_path: Path) -> None:
    streams = Streams(str(tmp_path / "fifo"), "c", Pipes(stdin=True))
    streams.attach(nothing)
    assert streams.stdin is not None
    with pytest.raises(BrokenPipeError):
        await streams.stdin.write(b"nobody reads")
    streams.close()


async def test_a_reader_that_waits_reads_the_end_when_it_is_closed() -> None:
    loop = asyncio.get_running_loop()
    number, other = os.pipe()
    os.set_blocking(number, False)
    reader = Reader(number)
    waiting = asyncio.ensure_future(reader.read_block())
    await asyncio.sleep(0)
    reader.close()
    # What has the number next keeps its place in the loop when the wait ends.
    source, sink = os.pipe()
    os.dup2(source, number)
    arrived = asyncio.Event()
    loop.add_reader(number, arrived.set)
    assert await waiting == b""
    os.write(sink, b"x")
    await asyncio.wait_for(arrived.wait(), 60)
    loop.remove_reader(number)
    for fd in {number, other, source, sink}:
        os.close(fd)


async def test_who_comes_later_attaches_to_the_same_pipes(tmp_path: Path) -> None:
    first = Streams(str(tmp_path / "fifo"), "c", Pipes(stdin=True))
    shim = Shim(first.paths)
    first.attach(nothing)
    first.release()
    second = Streams.existing(first.paths, str(tmp_path / "fifo"))
    second.attach(nothing)
    shim.write(first.paths.stdout, b"for the second")
    assert second.stdout is not None
    assert await second.stdout.read_block() == b"for the second"
    shim.close()
    second.close()
    assert os.listdir(tmp_path) == []


def test_who_deletes_removes_the_pipes_of_others_and_no_more(tmp_path: Path) -> None:
    first = Streams(str(tmp_path / "fifo"), "c", Pipes(stderr=False))
    first.release()
    log = tmp_path / "log"
    log.touch()
    Streams.known(Paths(stdout=first.paths.stdout, stderr=str(log))).close()
    assert os.listdir(tmp_path / "fifo") == []
    assert log.exists()


def test_a_terminal_has_one_output(tmp_path: Path) -> None:
    paths, streams = open_streams(Pipes(stdin=True, terminal=True), str(tmp_path / "fifo"), "c")
    assert paths.terminal and not paths.stderr
    assert streams is not None
    streams.close()


def test_choices_without_pipes(tmp_path: Path) -> None:
    assert open_streams(Null(), str(tmp_path), "c") == (Paths(), None)
    paths, streams = open_streams(LogURI("file:///log"), str(tmp_path), "c")
    assert (paths.stdout, paths.stderr, streams) == ("file:///log", "file:///log", None)
    assert os.listdir(tmp_path) == []
