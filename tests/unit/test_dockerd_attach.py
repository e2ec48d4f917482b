"""A client's connection and a process's streams, joined: who ends when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from longshore.dockerd.backend.attach import ALL, Wishes, join
from longshore.dockerd.backend.frames import frame


class Client:
    """A connection: what it `says`, then b"" (its end), unless it `stays`; `gone` breaks it."""

    def __init__(self, *says: bytes, stays: bool = False) -> None:
        self.seen = b""
        self._says, self._stays, self._gone = list(says), stays, asyncio.Event()

    async def read(self) -> bytes:
        if self._says:
            return self._says.pop(0)
        if self._stays:
            await self._gone.wait()
            raise ConnectionResetError("gone")
        return b""

    async def write(self, data: bytes) -> None:
        if self._gone.is_set():
            raise ConnectionResetError("gone")
        self.seen += data

    def go(self) -> None:
        self._gone.set()


class Process:
    """Streams: it reads all input, then prints `prints` and ends; with `runs` it goes on."""

    def __init__(self, *prints: tuple[str, bytes], runs: bool = False) -> None:
        self.typed, self.closed = b"", asyncio.Event()
        self._prints, self._runs = prints, runs

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        if not self._runs:
            await self.closed.wait()
        for item in self._prints:
            yield item
        if self._runs:
            await asyncio.Event().wait()

    async def write(self, data: bytes) -> None:
        self.typed += data

    async def close_stdin(self) -> None:
        self.closed.set()


def wishes(**changes: object) -> Wishes:
    return Wishes(True, ALL, False, True)._replace(**changes)  # type: ignore[arg-type]


async def within(work: object) -> bool:
    return await asyncio.wait_for(work, 60)  # type: ignore[arg-type]


async def test_the_output_goes_on_after_the_end_of_the_input() -> None:
    client, process = Client(b"a", b"b"), Process(("stdout", b"out"), ("stderr", b"err"))
    assert await within(join(client, process, wishes())) is False
    assert process.typed == b"ab"
    assert client.seen == frame("stdout", b"out") + frame("stderr", b"err")


async def test_only_wanted_outputs_and_no_frames_on_a_terminal() -> None:
    client, process = Client(), Process(("stdout", b"out"), ("stderr", b"err"))
    asked = wishes(outputs=frozenset(("stderr",)), terminal=True, framed=False)
    await within(join(client, process, asked))
    assert client.seen == b"err"


async def test_without_stdin_once_the_end_of_the_input_ends_the_attachment() -> None:
    client, process = Client(b"typed"), Process(runs=True)
    assert await within(join(client, process, wishes(closes_stdin=False))) is False
    assert process.typed == b"typed" and not process.closed.is_set()


async def test_detach_keys() -> None:
    client, process = Client(b"x\x10", b"\x11y", stays=True), Process(runs=True)
    asked = wishes(terminal=True, framed=False, keys=b"\x10\x11", closes_stdin=False)
    assert await within(join(client, process, asked)) is True
    assert process.typed == b"x"


async def test_keys_mean_nothing_without_a_terminal() -> None:
    client, process = Client(b"\x10\x11"), Process()
    assert await within(join(client, process, wishes(keys=b"\x10\x11"))) is False
    assert process.typed == b"\x10\x11"


@pytest.mark.parametrize("stdin", [True, False])
async def test_a_client_that_is_gone_ends_it(stdin: bool) -> None:
    client, process = Client(stays=True), Process(runs=True)
    joined = asyncio.ensure_future(join(client, process, wishes(stdin=stdin)))
    await asyncio.sleep(0)
    client.go()
    assert await within(joined) is False
    assert process.closed.is_set() is stdin  # its input has ended, too


async def test_input_that_nobody_wants_is_dropped() -> None:
    client, process = Client(b"noise", stays=True), Process(("stdout", b"out"))
    process.closed.set()
    await within(join(client, process, wishes(stdin=False)))
    assert process.typed == b"" and client.seen == frame("stdout", b"out")
