"""When collections happen: a scheduler with a collector that only counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from longshore.api import errors
from longshore.containerd.gc.collector import Collection, Collector
from longshore.containerd.gc.mark import Node
from longshore.containerd.gc.scheduler import Scheduler, Settings

QUICK = Settings(pause_threshold=0.5, startup_delay=0)
NEVER = 3600.0


class Counting:
    """A collector; `ended` has one entry per collection."""

    def __init__(self) -> None:
        self.ended: asyncio.Queue[float] = asyncio.Queue()
        self.fail = 0
        self.cleaned = 0

    async def collect(self) -> Collection:
        self.ended.put_nowait(time.monotonic())
        if self.fail:
            self.fail -= 1
            raise errors.ResourceExhausted("disk full")
        return Collection(time.time_ns(), (Node("n", "content", "d"),), 0.001, 0.001)

    async def clean_up(self, kinds: set[str] | None = None) -> None:
        self.cleaned += 1

    async def next(self) -> float:
        return await asyncio.wait_for(self.ended.get(), 60)


def no_expiry(_after: int) -> int | None:
    return None


@asynccontextmanager
async def running(
    settings: Settings, next_expiry: Callable[[int], int | None] = no_expiry
) -> AsyncIterator[tuple[Scheduler, Counting]]:
    collector = Counting()
    scheduler = Scheduler(cast(Collector, collector), settings, next_expiry)
    scheduler.start()
    yield scheduler, collector
    await scheduler.close()


async def test_one_after_the_start() -> None:
    async with running(Settings(startup_delay=0.02)) as (_, collector):
        await collector.next()
        assert collector.ended.empty()


async def test_a_deletion_waits_an_interval() -> None:
    async with running(Settings(pause_threshold=0.1, startup_delay=0)) as (scheduler, collector):
        begun = time.monotonic()
        for _ in range(50):
            scheduler.note(1, 1)
        assert await collector.next() - begun >= 0.045 - 0.001
        assert scheduler.interval == pytest.approx(0.045)
        assert collector.ended.empty()


async def test_mutations_count_when_there_are_many() -> None:
    async with running(QUICK._replace(mutation_threshold=10)) as (scheduler, collector):
        scheduler.note(9, 0)
        assert scheduler._delay() > NEVER / 60  # nothing is due
        scheduler.note(1, 0)
        await collector.next()


async def test_enough_deletions_hurry() -> None:
    settings = Settings(pause_threshold=0.00001, deletion_threshold=3, startup_delay=0)
    async with running(settings) as (scheduler, collector):
        scheduler.note(2, 2)
        assert collector.ended.empty()
        scheduler.note(1, 1)
        await collector.next()


async def test_nothing_before_the_startup_delay_but_what_is_asked_for() -> None:
    expires = time.time_ns()

    def next_expiry(after: int) -> int | None:
        return expires if expires >= after else None

    async with running(QUICK._replace(startup_delay=NEVER), next_expiry) as (scheduler, collector):
        scheduler.note(1000, 1000)
        assert scheduler._delay() > NEVER / 2
        await asyncio.wait_for(scheduler.collect(), 60)
        await collector.next()


async def test_who_asks_gets_one_that_begins_later_and_its_files() -> None:
    async with running(QUICK) as (scheduler, collector):
        asked = [asyncio.ensure_future(scheduler.collect()) for _ in range(5)]
        done = await asyncio.wait_for(asyncio.gather(*asked), 60)
        assert len({each.moment for each in done}) == 1 and collector.cleaned >= 5


async def test_expiry_fires_by_itself_and_once() -> None:
    expires = time.time_ns() + 30_000_000

    def next_expiry(after: int) -> int | None:
        return expires if expires >= after else None

    async with running(QUICK, next_expiry) as (_, collector):
        await collector.next()
        assert time.time_ns() > expires
        assert collector.ended.empty()


async def test_a_failure_reaches_who_waits_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longshore.containerd.gc.scheduler._RETRY_SECONDS", 0.01)
    async with running(QUICK) as (scheduler, collector):
        collector.fail = 1
        with pytest.raises(errors.ResourceExhausted):
            await asyncio.wait_for(scheduler.collect(), 60)
        await collector.next()
        await collector.next()


async def test_who_waits_at_the_end_hears_of_it() -> None:
    async with running(QUICK._replace(schedule_delay=NEVER)) as (scheduler, _):
        asked = asyncio.ensure_future(scheduler.collect())
        await asyncio.sleep(0)
    with pytest.raises(errors.Unavailable):
        await asked


@pytest.mark.parametrize(
    "table, expected",
    [
        ({}, Settings()),
        ({"pause_threshold": 0.9, "startup_delay": "1m"}, Settings(pause_threshold=0.5, startup_delay=60)),
        (
            {"pause_threshold": -1, "schedule_delay": "250ms"},
            Settings(pause_threshold=0, schedule_delay=0.25),
        ),
        (
            {"deletion_threshold": 5, "mutation_threshold": 0},
            Settings(deletion_threshold=5, mutation_threshold=0),
        ),
    ],
)
def test_settings(table: dict[str, Any], expected: Settings) -> None:
    assert Settings.of(table) == expected


@pytest.mark.parametrize(
    "table",
    [
        {"startup_delay": "soon"},
        {"pause_threshold": "0.1"},
        {"deletion_threshold": True},
        {"schedule_delay": 1.5},
    ],
)
def test_settings_that_cannot_be_meant(table: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgument):
        Settings.of(table)


async def test_a_clock_set_back_delays_no_expiry() -> None:
    """The moment that was last judged lies ahead then."""
    soon = time.time_ns() + 30_000_000

    def next_expiry(after: int) -> int | None:
        return soon if soon >= after else None

    async with running(QUICK, next_expiry) as (scheduler, collector):
        scheduler._judged = time.time_ns() + 3600 * 1_000_000_000
        scheduler.note(0, 0)
        await collector.next()
        assert time.time_ns() > soon
