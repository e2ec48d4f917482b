"""When to collect: containerd's thresholds, and times that expire.

A collection is due

- `startup_delay` after the start, and not before that (0: only when one of the following calls for it);
- an interval after something was deleted, or `mutation_threshold` objects
  were changed. The interval is what keeps collections within
  `pause_threshold` of the time, at least 5 ms / threshold: 245 ms by default;
- `schedule_delay` after `deletion_threshold` deletions (0: no such hurry), or
  after somebody asked for one and waits;
- when the time comes up to which something is kept. (containerd has no such
  timer: there it waits for the next deletion.)

Nothing runs in between; an idle daemon stays idle.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import structlog

from longshore.api import errors
from longshore.api.errors import InvalidArgument
from longshore.containerd.gc.collector import Collection, Collector
from longshore.containerd.gc.references import duration

log = structlog.get_logger("gc")

_MIN_SECONDS: Final = 0.005
_NO_INTERVAL: Final = 1.0
_RETRY_SECONDS: Final = 1.0

# Wall clocks are set, and machines suspended: times that expire are looked at again after at most so long.
_NAP: Final = 60.0
_NS: Final = 1_000_000_000


class Settings(NamedTuple):
    """Of ``[plugins."io.containerd.gc.v1.scheduler"]``, with containerd's defaults; times in seconds."""

    pause_threshold: float = 0.02
    deletion_threshold: int = 0
    mutation_threshold: int = 100
    schedule_delay: float = 0.0
    startup_delay: float = 0.1

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Settings:
        """Raises InvalidArgument for a value that can't be meant."""
        return cls(
            min(max(_number(table, "pause_threshold", 0.02), 0.0), 0.5),
            max(int(_number(table, "deletion_threshold", 0)), 0),
            max(int(_number(table, "mutation_threshold", 100)), 0),
            _seconds(table, "schedule_delay", 0.0),
            _seconds(table, "startup_delay", 0.1),
        )


def _number(table: Mapping[str, Any], key: str, default: float) -> float:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument(f"io.containerd.gc.v1.scheduler: {key} must be a number: invalid argument")
    return value


def _seconds(table: Mapping[str, Any], key: str, default: float) -> float:
    value = table.get(key)
    if value is None:
        return default
    span = value if isinstance(value, int) else duration(value) if isinstance(value, str) else None
    if span is None:
        raise InvalidArgument(f"io.containerd.gc.v1.scheduler: {key} must be a duration: invalid argument")
    return max(span, 0) / _NS


class Scheduler:
    """`next_expiry(after)`: the last moment (ns) of something that is kept up to a time, None if there is none."""

    def __init__(
        self, collector: Collector, settings: Settings, next_expiry: Callable[[int], int | None]
    ) -> None:
        self._collector = collector
        self._settings = settings
        self._next_expiry = next_expiry
        self._wake = asyncio.Event()
        self._mutations = 0
        self._deletions = 0
        self._waiters: list[asyncio.Future[Collection]] = []
        # Moments of time.monotonic() at which a collection is due, by reason.
        self._due: dict[str, float] = {}
        self._judged = time.time_ns()
        self._collections = 0
        self._seconds = 0.0
        self._task: asyncio.Task[None] | None = None
        self._cleaning: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Call on the event loop, when the daemon is about to serve."""
        if self._settings.startup_delay:
            self._set_due("start", self._settings.startup_delay)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """End; who still waits for a collection gets Unavailable."""
        for task in filter(None, (self._task, *self._cleaning)):
            task.cancel()
            await asyncio.wait([task])
        self._fail(errors.Unavailable("garbage collection: the daemon is stopping: unavailable"))

    def note(self, mutations: int, deletions: int) -> None:
        """Objects were changed; so many of these changes may have made garbage."""
        settings = self._settings
        self._mutations += mutations
        self._deletions += deletions
        if "start" not in self._due and self._worth_it():
            self._set_due("changes", self.interval)
        if 0 < settings.deletion_threshold <= self._deletions:
            self._set_due("deletions", settings.schedule_delay)
        self._wake.set()

    def _worth_it(self) -> bool:
        return self._deletions > 0 or 0 < self._settings.mutation_threshold <= self._mutations

    async def collect(self) -> Collection:
        """A collection that begins after now, its files included. Raises what made it fail."""
        waiter: asyncio.Future[Collection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._set_due("asked", self._settings.schedule_delay)
        self._wake.set()
        done = await waiter
        await self._collector.clean_up()
        return done

    @property
    def interval(self) -> float:
        """Seconds between collections for which nobody waits."""
        threshold = self._settings.pause_threshold
        if not threshold:
            return _NO_INTERVAL
        average = max(self._seconds / max(self._collections, 1), _MIN_SECONDS)
        return average / threshold - average

    # -- the task -------------------------------------------------------------------------------------------

    def _set_due(self, reason: str, delay: float) -> None:
        self._due.setdefault(reason, time.monotonic() + delay)

    async def _run(self) -> None:
        while True:
            delay = self._delay()
            try:
                async with asyncio.timeout(min(delay, _NAP)):
                    await self._wake.wait()
                self._wake.clear()
            except TimeoutError:
                if delay <= _NAP:
                    await self._collect()

    def _delay(self) -> float:
        """Seconds until the next collection is due."""
        delays = [moment - time.monotonic() for moment in self._due.values()]
        now = time.time_ns()
        # A clock that was set back: what ends before the moment last judged has yet to end.
        if "start" not in self._due and (expiry := self._next_expiry(min(self._judged, now))) is not None:
            delays.append((expiry - now) / _NS + 0.001)
        return max(min(delays, default=_NAP * 2), 0.0)

    async def _collect(self) -> None:
        waiters, self._waiters = self._waiters, []
        self._mutations = self._deletions = 0
        self._due.clear()
        try:
            done = await self._collector.collect()
        except Exception as error:
            log.error(
                "garbage collection failed", error=str(error), exc_info=not isinstance(error, errors.Error)
            )
            self._set_due("again", self.interval + _RETRY_SECONDS)
            self._fail(error, waiters)
            return
        self._judged = done.moment
        self._collections += 1
        self._seconds += done.seconds
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(done)
        if done.removed:
            self._clean_up({node.kind for node in done.removed})

    def _clean_up(self, kinds: set[str]) -> None:
        """In the background: removing files may take long, and needs no pause."""
        task = asyncio.get_running_loop().create_task(self._collector.clean_up(kinds))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    def _fail(self, error: Exception, waiters: list[asyncio.Future[Collection]] | None = None) -> None:
        if waiters is None:
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
