"""Signals, stops and pauses. Nobody holds the lock while a container takes its time to end."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

from longshore.api.errors import Error, FailedPrecondition, NotFound
from longshore.api.services.tasks.v1 import tasks_pb2
from longshore.dockerd.backend import signals
from longshore.dockerd.backend.live import Live, Outcome
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.errors import Conflict, NotModified, ServerError

DEFAULT_SECONDS = 10
"""Between the stop signal and SIGKILL."""
KILL_SECONDS = 10.0
"""After SIGKILL; then something in the kernel keeps the process."""


class Stopping:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.closing = False
        """dockerd stops its containers: that is nobody's wish, and policies bring them back with it."""

    # -- signals

    async def kill(self, live: Live, text: str = "") -> None:
        """Send a signal (default SIGKILL, which is waited for). Raises Conflict if it doesn't run."""
        number = signals.number(text) if text else int(signal.SIGKILL)
        if number == signal.SIGKILL:
            await self._kill(live, f"Cannot kill container: {live.record.name}: ")
            return
        async with live.lock:
            self._running(live, f"Cannot kill container: {live.record.name}: ")
            if not live.record.config.stop_signal or number == stop_signal(live):
                await self._meant_to_stop(live)
            await self.send(live, number)

    async def _kill(self, live: Live, words: str) -> None:
        async with live.lock:
            if await self._give_up(live):
                return
            self._running(live, words)
            await self._meant_to_stop(live)
            ended = live.stopped.add()
            await self.send(live, signal.SIGKILL)
        await self._wait(live, ended, KILL_SECONDS)
        if not ended.done() or ended.cancelled():
            raise ServerError(f"{words}tried to kill container, but did not receive an exit event")

    def _running(self, live: Live, words: str) -> None:
        if not live.has_process:
            raise Conflict(f"{words}Container {live.id} is not running")

    async def send(self, live: Live, number: int) -> None:
        """With the lock held. A paused container wakes up for it. No error if it has just ended."""
        tasks = self._parts.client.tasks
        request = tasks_pb2.KillRequest(container_id=live.id, signal=int(number))
        try:
            await tasks.call(tasks.stub.Kill, request)
        except NotFound:
            return
        except Error as error:
            if "already finished" in error.message or "not found" in error.message:
                return
            raise ServerError(f"Cannot kill container {live.id}: {error.message}") from error
        self._parts.publish(live, "kill", {"signal": str(int(number))})
        if live.record.state.status == "paused":
            with suppress(ServerError):  # the signal has ended it, and there is nothing to wake up
                await self._resume(live)

    async def _meant_to_stop(self, live: Live) -> None:
        if not live.record.state.manually_stopped and not self.closing:
            draft = live.draft()
            draft.state.manually_stopped = True
            if draft.host_config.restart_policy.name in ("", "no"):
                live.take(draft)  # nothing would ever read it: not worth a write
            else:
                await self._parts.registry.save(live, draft)

    async def _give_up(self, live: Live) -> bool:
        """A container that waits for its next start doesn't run: it won't, and that is all."""
        if live.record.state.status != "restarting":
            return False
        live.forget_tasks()
        draft = live.draft()
        draft.state.status, draft.state.manually_stopped = "exited", True
        await self._parts.registry.save(live, draft)
        live.stopped.tell(Outcome(draft.state.exit_code))
        return True

    # -- stop

    async def stop(self, live: Live, seconds: int | None = None, text: str = "") -> None:
        """The stop signal, then SIGKILL after `seconds` (negative: never). Raises NotModified if it doesn't run."""
        if not live.alive:
            raise NotModified(f"container {live.id} is already stopped")
        await self.end(live, seconds, text)
        self._parts.publish(live, "stop")

    async def end(self, live: Live, seconds: int | None = None, text: str = "") -> None:
        """As `stop`, without its event and without an error if it has ended."""
        number = signals.number(text) if text else stop_signal(live)
        wait = stop_seconds(live) if seconds is None else seconds
        async with live.lock:
            if await self._give_up(live) or not live.has_process:
                return
            await self._meant_to_stop(live)
            ended = live.stopped.add()
            await self.send(live, number)
        await self._wait(live, ended, None if wait < 0 else wait)
        if ended.cancelled() or not ended.done():
            with suppress(Conflict):
                await self._kill(live, f"cannot stop container: {live.record.name}: ")

    async def _wait(self, live: Live, ended: asyncio.Future[Outcome], seconds: float | None) -> None:
        try:
            await asyncio.wait((ended,), timeout=seconds)
        finally:
            if not ended.done():
                ended.cancel()

    # -- pause

    async def pause(self, live: Live) -> None:
        """Raises Conflict."""
        async with live.lock:
            if live.record.state.status == "restarting":
                raise Conflict(f"Container {live.id} is restarting, wait until the container is running")
            self._running(live, "")
            if live.record.state.status == "paused":
                raise Conflict(f"Container {live.id} is already paused")
            tasks = self._parts.client.tasks
            try:
                await tasks.call(tasks.stub.Pause, tasks_pb2.PauseTaskRequest(container_id=live.id))
            except Error as error:
                raise ServerError(f"Cannot pause container {live.id}: {error.message}") from error
            await self._set(live, "paused")
            self._parts.publish(live, "pause")

    async def unpause(self, live: Live) -> None:
        """Raises Conflict."""
        async with live.lock:
            if live.record.state.status != "paused":
                raise Conflict(f"Container {live.id} is not paused")
            await self._resume(live)

    async def _resume(self, live: Live) -> None:
        tasks = self._parts.client.tasks
        try:
            await tasks.call(tasks.stub.Resume, tasks_pb2.ResumeTaskRequest(container_id=live.id))
        except (NotFound, FailedPrecondition):
            return  # it has ended meanwhile
        except Error as error:
            raise ServerError(f"Cannot unpause container {live.id}: {error.message}") from error
        await self._set(live, "running")
        self._parts.publish(live, "unpause")

    async def _set(self, live: Live, status: str) -> None:
        draft = live.draft()
        draft.state.status = status
        await self._parts.registry.save(live, draft)


def stop_signal(live: Live) -> int:
    return signals.number(live.record.config.stop_signal or "SIGTERM")


def stop_seconds(live: Live) -> int:
    wanted = live.record.config.stop_timeout
    return DEFAULT_SECONDS if wanted is None else wanted
