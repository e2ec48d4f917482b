"""`Containers`: every verb of a container, as the routes and dockerd's other parts ask for them.

Each verb holds the container's lock for as long as it changes something, and
runs to its end even when the client that asked for it goes away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from longshore.api.errors import Error, FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from longshore.api.services.tasks.v1 import tasks_pb2
from longshore.dockerd.backend import describe, names, signals
from longshore.dockerd.backend.attach import Attaching
from longshore.dockerd.backend.checks import Checks
from longshore.dockerd.backend.create import Created, Creation
from longshore.dockerd.backend.execs import Execs
from longshore.dockerd.backend.exits import Exits
from longshore.dockerd.backend.listing import Listing
from longshore.dockerd.backend.live import Live, Outcome
from longshore.dockerd.backend.monitor import Monitor
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.backend.recover import Recovery
from longshore.dockerd.backend.registry import Registry
from longshore.dockerd.backend.remove import Removal
from longshore.dockerd.backend.restart import Backoff
from longshore.dockerd.backend.start import Starting
from longshore.dockerd.backend.stop import Stopping
from longshore.dockerd.errors import Conflict, NotModified
from longshore.dockerd.logs.reading import Span
from longshore.dockerd.records import Container, CreateBody, named_links

if TYPE_CHECKING:
    from longshore.client import AsyncClient
    from longshore.dockerd.config import Config
    from longshore.dockerd.engine import ImageInfo, LogEntry
    from longshore.dockerd.events import Events
    from longshore.dockerd.images.store import Images
    from longshore.dockerd.logs.manager import Logs
    from longshore.dockerd.network.manager import Networks
    from longshore.dockerd.state import State
    from longshore.dockerd.volumes.manager import Volumes
    from longshore.zygote.client import Zygote

T = TypeVar("T")
log = structlog.get_logger("dockerd.containers")

CONDITIONS = ("", "not-running", "next-exit", "removed")


class Containers:
    def __init__(
        self,
        client: AsyncClient,
        state: State,
        events: Events,
        config: Config,
        zygote: Zygote,
        images: Images,
        volumes: Volumes,
        networks: Networks,
        logs: Logs,
    ) -> None:
        self.registry = Registry(state)
        self.parts = parts = Parts(
            client, config, events, zygote, images, volumes, networks, logs, self.registry
        )
        self.execs = Execs(parts)
        self.stopping = Stopping(parts)
        self.listing = Listing(parts)
        self.attaching = Attaching(parts, self._close_io)
        self._creation, self._starting, self._removal = Creation(parts), Starting(parts), Removal(parts)
        self._checks = Checks(parts, self.execs)
        self._exits = Exits(parts, self._bring_back, partial(self._removal.remove, volumes=True))
        self._monitor = Monitor(parts, self._exits, self.execs)
        self._recovery = Recovery(parts, self._exits, self._removal, self._checks, self._come_up)
        self._work: set[asyncio.Task[Any]] = set()
        self._pruning = False

    # -- life

    async def start_up(self) -> None:
        """Load the records, and make them agree with what containerd runs."""
        self.registry.load()
        await self._monitor.start(self._recovery.run)

    async def close(self, stop: bool = False, seconds: int | None = None) -> None:
        """Containers run on, unless `stop`. What is being done is finished first."""
        if stop:
            self._exits.closing = self.stopping.closing = True
            ending = [self.stopping.end(live, seconds) for live in self.registry if live.alive]
            await asyncio.gather(*ending, return_exceptions=True)
        if self._work:
            await asyncio.wait(self._work, timeout=10)
        await self._recovery.close()
        await self._monitor.close()
        for live in self.registry:
            live.forget_tasks()
        await self.execs.close()

    async def _finished(self, work: Coroutine[Any, Any, T]) -> T:
        """The work goes on when its caller is cancelled."""
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return await asyncio.shield(task)

    # -- looking

    def find(self, name: str) -> Container:
        """The record, by ID, name or prefix. Raises NotFound: "No such container: NAME"."""
        return self.registry.find(name).record

    def live(self, name: str) -> Live:
        """As `find`, with lock and waiters."""
        return self.registry.find(name)

    def all(self) -> list[Container]:
        """Every record."""
        return [live.record for live in self.registry]

    records = all

    async def save(self, record: Container) -> None:
        """Make a record durable that another part has changed (networks, resources)."""
        live = self.registry.get(record.id)
        if live is not None:
            await self.registry.save(live)

    async def inspect(self, name: str, version: tuple[int, int], size: bool = False) -> dict[str, Any]:
        live = self.live(name)
        document = describe.inspect(live, version, self.parts.networks.sandbox_key(live.id))
        if size:
            document |= await self.listing.sizes(live)
        return document

    # -- making and removing

    async def create(self, body: CreateBody, name: str = "", image: ImageInfo | None = None) -> Created:
        """See `Creation.create`; `image` where it has no name (a build's)."""
        return await self._finished(self._creation.create(body, name, image))

    async def remove(self, name: str, *, force: bool = False, volumes: bool = False) -> None:
        """Raises NotFound, Conflict (it runs and `force` is false; somebody else removes it)."""
        live = self.live(name)
        self._removal.check(live, force)
        await self._finished(self._remove(live, force, volumes))

    async def _remove(self, live: Live, force: bool, volumes: bool) -> None:
        live.kept = True  # this removes it, not --rm
        try:
            if live.alive:
                with suppress(Conflict):
                    await self.stopping.kill(live)
            async with live.lock:
                self._removal.check(live, force)
                if live.has_process:
                    words = f"You cannot remove a running container {live.id}. It was started meanwhile"
                    raise Conflict(words)
                await self._removal.remove(live, volumes)
        finally:
            live.kept = False

    async def unlink(self, name: str) -> None:
        """`docker rm --link /parent/alias`. Raises NotFound, Conflict."""
        parent, _, alias = name.removeprefix("/").rpartition("/")
        if not parent:
            self.live(name)
            raise Conflict("Conflict, cannot remove the default link name of the container")
        await self._finished(self._unlink(self.live(parent), name, alias))

    async def _unlink(self, live: Live, name: str, alias: str) -> None:
        async with live.lock:
            draft = live.draft()
            found = draft.host_config.links or []
            kept = [link for link in found if named_links([link])[0][1] != alias]
            if len(kept) == len(found):
                raise NotFound(f"Cannot get parent {name} for name {alias}")
            draft.host_config.links = kept or None
            await self.registry.save(live, draft)

    async def rename(self, name: str, new: str) -> None:
        if not new:
            raise InvalidArgument("Neither old nor new names may be empty")
        live = self.live(name)
        await self._finished(self._rename(live, new))

    async def _rename(self, live: Live, new: str) -> None:
        async with live.lock:
            old = live.record.name
            bare = names.check(new)
            if bare == old:
                raise InvalidArgument("Renaming a container with the same name as its current name")
            try:
                self.registry.reserve(bare, live.id)
            except Conflict as error:
                raise Conflict(f"Error when allocating new name: {error.message}") from None
            draft = live.draft()
            draft.name = bare
            try:
                await self.registry.save(live, draft)
            except BaseException:
                self.registry.release(bare, live.id)
                raise
            self.registry.release(old, live.id)
            self.parts.networks.renamed(live.record)
            self.parts.publish(live, "rename", {"oldName": f"/{old}"})

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Remove what doesn't run; filters: until, label, label!. Raises Conflict while another prune runs."""
        from longshore.dockerd.backend import prune

        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        try:
            return await self._finished(prune.prune(self, filters))
        finally:
            self._pruning = False

    # -- running

    async def start(self, name: str) -> None:
        """Raises NotModified if it runs, and what a failed start comes to."""
        live = self.live(name)
        self._starting.check(live)
        await self._finished(self._start(live))

    async def _start(self, live: Live) -> None:
        async with live.lock:
            self._starting.check(live)
            live.forget_tasks()
            live.backoff = Backoff()
            live.record.restart_count = 0
            await self._come_up(live)

    async def _come_up(self, live: Live) -> None:
        """With the lock held: start, and what goes with it."""
        try:
            await self._starting.start(live)
        except BaseException:
            if live.record.host_config.auto_remove and not live.kept:
                await self._removal.remove(live, volumes=True)
            raise
        self._checks.begin(live)

    async def _bring_back(self, live: Live) -> None:
        """A restart policy's time has come."""
        async with live.lock:
            if live.record.state.status != "restarting":
                return
            live.coming_back = None
            live.record.restart_count += 1
            await self._come_up(live)

    async def stop(self, name: str, seconds: int | None = None, signal: str = "") -> None:
        """Raises NotModified if it doesn't run."""
        await self._finished(self.stopping.stop(self.live(name), seconds, signal))

    async def restart(self, name: str, seconds: int | None = None, signal: str = "") -> None:
        live = self.live(name)
        await self._finished(self._restart(live, seconds, signal))

    async def _restart(self, live: Live, seconds: int | None, signal: str) -> None:
        live.kept = True
        try:
            if live.alive:
                await self.stopping.end(live, seconds, signal)
                self.parts.publish(live, "stop")
            with suppress(NotModified):
                await self._start(live)
        finally:
            live.kept = False
        self.parts.publish(live, "restart")

    async def kill(self, name: str, signal: str = "") -> None:
        if signal:
            signals.number(signal)
        try:
            live = self.live(name)
        except NotFound as error:
            raise NotFound(f"Cannot kill container: {name}: {error.message}") from None
        await self._finished(self.stopping.kill(live, signal))

    async def pause(self, name: str) -> None:
        await self._finished(self.stopping.pause(self.live(name)))

    async def unpause(self, name: str) -> None:
        await self._finished(self.stopping.unpause(self.live(name)))

    async def resize(self, name: str, height: int, width: int) -> None:
        """Characters. Raises Conflict unless it runs, InvalidArgument for what no terminal can have."""
        live = self.live(name)
        if not live.has_process:
            raise Conflict(f"Container {live.id} is not running")
        tasks = self.parts.client.tasks
        request = tasks_pb2.ResizePtyRequest(container_id=live.id, width=width, height=height)
        await tasks.call(tasks.stub.ResizePty, request)
        self.parts.publish(live, "resize", {"height": str(height), "width": str(width)})

    # -- waiting

    def wait(self, name: str, condition: str = "") -> Awaitable[Outcome]:
        """Registered when this returns; awaiting it may take for ever. Raises InvalidArgument, NotFound."""
        if condition not in CONDITIONS:
            raise InvalidArgument(f'invalid condition: "{condition}"')
        live = self.live(name)
        if condition == "removed":
            return live.removed.add()
        if condition == "next-exit" or live.alive:
            return live.stopped.add()
        future = live.stopped.add()
        future.set_result(live.outcome())
        return future

    # -- streams

    def logs(self, live: Live, span: Span, *, follow: bool = False) -> AsyncGenerator[list[LogEntry], None]:
        """What is recorded, some hundred entries at a time; with `follow` until the container stops.

        Raises Unimplemented at once where the driver can't be read.
        """
        if live.record.host_config.log_config.type == "none":
            raise Unimplemented("configured logging driver does not support reading")
        return self.parts.logs.batches(live.record, follow=follow and live.alive, span=span)

    async def _close_io(self, id: str) -> None:
        tasks = self.parts.client.tasks
        request = tasks_pb2.CloseIORequest(container_id=id, stdin=True)
        with suppress(NotFound, FailedPrecondition, Error):
            await tasks.call(tasks.stub.CloseIO, request)
