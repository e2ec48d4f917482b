"""What happens when a container's process has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec
import structlog

from longshore.api.errors import Error, FailedPrecondition, NotFound
from longshore.api.services.tasks.v1 import tasks_pb2
from longshore.dockerd.backend import places, restart
from longshore.dockerd.backend.live import Live, Outcome
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.backend.start import forget_record
from longshore.dockerd.records import Container

log = structlog.get_logger("dockerd.exits")

DELETE_SECONDS = 30.0


class Exit(NamedTuple):
    pid: int
    exit_code: int
    time_ns: int


class Exits:
    """`bring_back(live)` starts it again under its policy; `remove(live)` removes it, with the lock held."""

    def __init__(
        self,
        parts: Parts,
        bring_back: Callable[[Live], Awaitable[None]],
        remove: Callable[[Live], Awaitable[None]],
    ) -> None:
        self._parts, self._bring_back, self._remove = parts, bring_back, remove
        self.closing = False
        """dockerd stops its containers: no policy brings them back."""

    async def ended(self, live: Live, exit: Exit) -> None:
        """Told twice is once: the pid says which run is meant."""
        async with live.lock:
            state = live.record.state
            if live.has_process and state.pid == exit.pid:
                await self._ended(live, exit)

    async def _ended(self, live: Live, exit: Exit) -> None:
        live.forget_tasks()
        await self.clean(live)
        draft = live.draft()
        self._note(draft, live, exit)
        again = not self.closing and restart.wanted(
            draft.host_config.restart_policy,
            exit.exit_code,
            draft.state.manually_stopped,
            draft.restart_count,
        )
        goes = draft.host_config.auto_remove and not again and not live.kept
        draft.state.status = "restarting" if again else "exited"
        if goes:  # its record is deleted in a moment: no need to write it first
            live.take(draft)
        else:
            await self._save(live, draft)
        ran = max(0, exit.time_ns - draft.state.started_ns) // 1_000_000_000
        self._parts.publish(live, "die", {"execDuration": str(ran), "exitCode": str(exit.exit_code)})
        live.stopped.tell(Outcome(exit.exit_code))
        if again:
            live.coming_back = asyncio.create_task(self._come_back(live, ran))
        elif goes:
            await self._remove(live)

    async def _save(self, live: Live, draft: Container) -> None:
        """It has ended whether or not that can be written down; the next start of dockerd finds out again."""
        try:
            await self._parts.registry.save(live, draft)
        except Exception as error:
            log.error("the end of a container can't be recorded", id=live.id, error=str(error))
            live.take(draft)

    def _note(self, draft: Container, live: Live, exit: Exit) -> None:
        state = draft.state
        state.pid, state.exit_code, state.error = 0, exit.exit_code, ""
        state.finished_ns = exit.time_ns or time.time_ns()
        state.oom_killed = live.out_of_memory
        if state.health is not None:  # as the original says of what nobody watches
            state.health = msgspec.structs.replace(state.health, status="unhealthy")
        draft.ports = {}

    async def clean(self, live: Live) -> None:
        """Give back what the run had. What fails is logged, and tried again when dockerd starts."""
        record = live.record
        live.process = None
        work = [
            self._drop_task(live),
            self._parts.logs.ended(record),
            self._parts.networks.leave(record),
            places.release(self._parts, record),
        ]
        for result in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(result, Exception):
                log.warning("a part of the container could not be released", id=live.id, error=str(result))

    async def _drop_task(self, live: Live) -> None:
        tasks = self._parts.client.tasks
        for exec in list(live.execs.values()):
            exec.container_ended()
        request = tasks_pb2.DeleteTaskRequest(container_id=live.id)
        with suppress(NotFound):
            await self._parts.client.connection.call(tasks.stub.Delete, request, timeout=DELETE_SECONDS)
        with suppress(FailedPrecondition):
            await forget_record(self._parts, live.id)

    async def _come_back(self, live: Live, ran: float) -> None:
        await asyncio.sleep(live.backoff.next(ran))
        try:
            await self._bring_back(live)
        except Error as error:
            log.error("failed to restart the container", id=live.id, error=str(error))
        except Exception:
            log.exception("failed to restart the container", id=live.id)
