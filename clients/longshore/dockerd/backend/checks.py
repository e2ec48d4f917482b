"""Health checks at work: the command runs in the container, again and again."""

from __future__ import annotations

import asyncio
import time

import structlog

from longshore.api.errors import Error
from longshore.dockerd.backend import times
from longshore.dockerd.backend.execs import Execs
from longshore.dockerd.backend.health import OUTPUT_LIMIT, Plan, judged, plan
from longshore.dockerd.backend.live import Live
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.records import Health, HealthResult

log = structlog.get_logger("dockerd.health")


class Checks:
    def __init__(self, parts: Parts, execs: Execs) -> None:
        self._parts, self._execs = parts, execs

    def begin(self, live: Live) -> None:
        """While it runs; ended by `Live.forget_tasks`."""
        found = plan(live.record.config)
        if found is not None:
            live.probing = asyncio.create_task(self._run(live, found))

    async def _run(self, live: Live, found: Plan) -> None:
        begun = time.monotonic()
        while True:
            starting = time.monotonic() - begun < found.start_period
            health = live.record.state.health
            early = starting and health is not None and health.status == "starting"
            await asyncio.sleep(min(found.start_interval, found.interval) if early else found.interval)
            if live.record.state.status == "paused":
                continue
            try:
                await self._probe(live, found, time.monotonic() - begun < found.start_period)
            except Exception:
                log.exception("a health check could not be recorded", id=live.id)

    async def _probe(self, live: Live, found: Plan, starting: bool) -> None:
        started = time.time_ns()
        code, output = await self._ask(live, found)
        result = HealthResult(
            start=times.rfc3339(started),
            end=times.rfc3339(time.time_ns()),
            exit_code=code,
            output=output.decode(errors="replace"),
        )
        async with live.lock:
            if live.has_process:
                await self._record(live, result, found, starting)

    async def _ask(self, live: Live, found: Plan) -> tuple[int, bytes]:
        try:
            return await self._execs.probe(live, found.command, found.timeout, OUTPUT_LIMIT)
        except TimeoutError:
            return -1, f"Health check exceeded timeout ({_duration(found.timeout)})".encode()
        except Error as error:
            return -1, error.message.encode()

    async def _record(self, live: Live, result: HealthResult, found: Plan, starting: bool) -> None:
        before = live.record.state.health or Health()
        draft = live.draft()
        draft.state.health = judged(before, result, found.retries, starting)
        if draft.state.health.status == before.status:
            live.take(draft)  # only the log has grown: not worth a write
            return
        await self._parts.registry.save(live, draft)
        self._parts.publish(live, f"health_status: {draft.state.health.status}")


def _duration(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"
