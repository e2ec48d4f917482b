"""The pipes of an exec that has ended: what it printed arrives, and who inherited them keeps nobody waiting."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from longshore.client.io import Reader
from longshore.dockerd.backend import execs


async def test_a_slow_client_gets_all_and_an_heir_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execs, "DRAIN_SECONDS", 0.02)
    read, write = os.pipe2(os.O_NONBLOCK)  # our copy of `write` is the heir's: it stays open
    os.write(write, b"x" * 60_000)
    reader = Reader(read)
    process = SimpleNamespace(streams=SimpleNamespace(stdout=reader, stderr=None))
    pipes = execs._Pipes(cast(Any, process))
    looks, found = asyncio.Event(), bytearray()

    async def client() -> None:
        async for _, data in pipes.output():
            await looks.wait()
            found.extend(data)

    reading = asyncio.ensure_future(client())
    settling = asyncio.ensure_future(pipes.settle(reading))
    done, _ = await asyncio.wait((settling,), timeout=0.2)
    assert not done
    looks.set()
    await settling
    assert len(found) == 60_000 and not reading.done()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    reader.close()
    os.close(write)
