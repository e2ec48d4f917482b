"""Every rpc of the socket with random and damaged requests: the daemon lives, stays small, and keeps its manners.

A few thousand here, a hundred thousand with LONGSHORE_SOAK=1.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor

from support import fuzz, soak
from support.daemon import Longshore
from support.remote import channel

COUNT = soak.times(2500, 100_000)
AT_ONCE = 8
WAIT_SECONDS, UNARY_SECONDS, STREAM_SECONDS = 10.0, 60.0, 0.15
# Names of exceptions as Python writes them. "GC" and the like are words, not names.
NAMES = re.compile(
    r"\b(?:[a-z_]+\.)*[A-Z][A-Za-z]+(?:Error|Exception|Interrupt)\b|Traceback|<class|object at 0x"
)
METADATA: tuple[list[tuple[str, str]], ...] = (
    [("containerd-namespace", "fuzz")],
    [("containerd-namespace", "fuzz"), ("containerd-lease", "a")],
    [("containerd-namespace", "-bad-")],
    [],
)

# Waits for something on purpose: a deadline is its right answer.
WAITING = {"Wait", "Subscribe", "Stream", "Report", "Write"}


async def _call(opened: grpc.aio.Channel, method: MethodDescriptor, chance: random.Random) -> tuple[str, str]:
    """Status and text of one call."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    data, metadata = fuzz.request(method, chance), chance.choice(METADATA)
    try:
        if not method.client_streaming and not method.server_streaming:
            ask: Any = opened.unary_unary(path)
            await ask(
                data, metadata=metadata, timeout=WAIT_SECONDS if method.name in WAITING else UNARY_SECONDS
            )
        else:
            call: Any = opened.stream_stream(path)(metadata=metadata, timeout=STREAM_SECONDS)
            await call.write(data)
            await call.done_writing()
            async for _ in call:
                pass
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    except (asyncio.InvalidStateError, asyncio.CancelledError, grpc.aio.InternalError):
        return "ENDED", ""  # refused before we had said all
    return "OK", ""


async def _fuzz(address: Path, seed: int, count: int) -> tuple[Counter[str], list[str]]:
    """How often each status came; and what no daemon should say."""
    chance, methods = random.Random(seed), fuzz.methods()
    seen: Counter[str] = Counter()
    bad: list[str] = []
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(method: MethodDescriptor) -> None:
        async with slots:
            status, text = await _call(opened, method, chance)
        seen[status] += 1
        if NAMES.search(text) or "internal error" in text:
            bad.append(f"{method.full_name}: {status}: {text[:300]}")
        if status == "DEADLINE_EXCEEDED" and method.name not in WAITING and not method.server_streaming:
            bad.append(f"{method.full_name}: no answer within {UNARY_SECONDS} s")

    async with channel(address) as opened:
        for start in range(0, count, 500):
            await asyncio.gather(
                *(one(chance.choice(methods)) for _ in range(start, min(start + 500, count)))
            )
    return seen, bad


def _resident(pid: int) -> int:
    """KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def test_nonsense_to_every_rpc() -> None:
    # The same at every run, as everywhere: `make soak` looks further.
    seed = int(os.environ.get("LONGSHORE_SEED") or (random.randrange(1 << 32) if soak.SOAK else 2))
    with Longshore() as daemon:
        seen, bad = asyncio.run(_fuzz(daemon.address, seed, COUNT // 2))
        before = _resident(daemon.pid)
        more, worse = asyncio.run(_fuzz(daemon.address, seed + 1, COUNT - COUNT // 2))
        after = _resident(daemon.pid)
        log = daemon.log.read_text(errors="replace")
        daemon.go_ctr("version")
    complaints = sorted({*bad, *worse})
    complaints += [line[:300] for line in log.splitlines() if NAMES.search(line)]
    assert not complaints, f"seed {seed}:\n" + "\n".join(complaints[:40])
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= {*(seen + more)}, f"seed {seed}: {seen + more}"
    if soak.times(0, 1):
        assert after < before * 1.1, f"seed {seed}: {before} KiB became {after}"
