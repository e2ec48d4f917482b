"""`Builder`: from a request to an image.

A build has a folder of its own (<data-root>/builds/<random>) and a lease;
both go with it, however it ends, and what a crash leaves of them goes when
dockerd starts. Images that its steps have made stay: they are the cache.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, cast

from longshore.api.errors import Error, InvalidArgument, NotFound
from longshore.client import oci
from longshore.dockerd.build import context, instructions, lines, steps
from longshore.dockerd.build.arguments import Arguments
from longshore.dockerd.build.cache import Cache
from longshore.dockerd.build.instructions import Arg, Plan
from longshore.dockerd.build.options import Options
from longshore.dockerd.build.output import Output
from longshore.dockerd.build.running import LABEL
from longshore.dockerd.build.stages import Finished, Stage
from longshore.dockerd.build.words import Expander
from longshore.dockerd.build.work import SCRATCH, Work
from longshore.dockerd.engine import ImageInfo
from longshore.dockerd.errors import ServerError
from longshore.dockerd.images import names

if TYPE_CHECKING:
    from longshore.client import AsyncClient
    from longshore.dockerd.backend.containers import Containers
    from longshore.dockerd.config import Config
    from longshore.dockerd.events import Events
    from longshore.dockerd.images.store import Images
    from longshore.dockerd.state import State
    from longshore.zygote.client import Zygote

_REMOVE: Final = "longshore.layers.worker:remove"


class Builder:
    """Builds run beside each other; each is a task of its client's request."""

    def __init__(
        self,
        client: AsyncClient,
        state: State,
        events: Events,
        config: Config,
        zygote: Zygote,
        images: Images,
        containers: Containers,
    ) -> None:
        self._client, self._events, self._zygote = client, events, zygote
        self._images, self._containers = images, containers
        self._folder = os.path.join(config.data_root, "builds")
        self._running: dict[str, asyncio.Task[Any]] = {}

    async def start(self) -> None:
        """Remove what builds have left that a crash ended."""
        await asyncio.to_thread(os.makedirs, self._folder, 0o700, True)
        await self._remove(await asyncio.to_thread(os.listdir, self._folder))
        for lease in await self._client.leases.list([f'labels."{LABEL}"==true']):
            with suppress(NotFound):
                await self._client.leases.delete(lease.id)
        for record in self._containers.all():
            if LABEL in (record.config.labels or {}):
                with suppress(Error):
                    await self._containers.remove(record.id, force=True, volumes=True)

    async def close(self) -> None:
        """Builds end with their requests."""

    def cancel(self, id: str) -> None:
        """End the build that its client has given this ID; one that isn't there is fine."""
        task = self._running.get(id)
        if task is not None:
            task.cancel()

    def pruned(self) -> None:
        """There is no cache beside the images: a prune of it finds nothing."""
        self._events.publish("builder", "prune", "", {"reclaimed": "0"})

    async def build(self, options: Options, body: AsyncIterator[bytes], output: Output) -> str:
        """The ID of the image, which then has its names. Raises the closed set of errors, and CommandFailed."""
        task = asyncio.current_task()
        if options.id and task is not None:
            self._running[options.id] = task
        try:
            async with self._work(options, output) as work:
                dockerfile = _parsed(options.dockerfile, await self._fetch(work, body))
                image = await self._build(work, dockerfile)
                await output.say(f"Successfully built {names.short(image.id)}\n")
                for reference in options.tags:
                    await self._images.tag(image.id, reference)
                    await output.say(f"Successfully tagged {names.familiar(reference)}\n")
                return image.id
        finally:
            self._running.pop(options.id, None)

    @asynccontextmanager
    async def _work(self, options: Options, output: Output) -> AsyncIterator[Work]:
        name = secrets.token_hex(8)
        folder = os.path.join(self._folder, name)
        await asyncio.to_thread(os.mkdir, folder, 0o700)
        try:
            async with self._client.leased(labels={LABEL: "true"}) as client:
                yield Work(options, output, self._images, self._containers, self._zygote, client, folder)
        finally:
            await asyncio.shield(self._remove([name]))

    async def _remove(self, folders: list[str]) -> None:
        if folders:
            await self._zygote.call(_REMOVE, {"directory": self._folder, "names": folders})

    async def _fetch(self, work: Work, body: AsyncIterator[bytes]) -> str:
        """The context into its folder; the Dockerfile's text."""
        options = work.options
        root = await asyncio.to_thread(work.new_folder, "context")
        if options.remote:
            context.check_remote(options.remote)
            text = await context.fetch_context(self._zygote, options.remote, root)
            if text is not None:
                return text
        else:
            await context.unpack(self._zygote, body, root)
        work.context = root
        arguments = {"root": root, "path": options.dockerfile}
        return cast(str, await context.refusing(self._zygote, "dockerfile", arguments))

    async def _build(self, work: Work, dockerfile: lines.Dockerfile) -> ImageInfo:
        options, output = work.options, work.output
        work.escape = dockerfile.escape
        plan = instructions.plan(dockerfile)
        if options.target:
            plan = plan.until(options.target)
        plan = plan.labelled(sorted(options.labels.items()))
        if dockerfile.warnings:
            await output.printed("stderr", "".join(f"{line}\n" for line in dockerfile.warnings).encode())
        return await _Run(work, plan).run()


def _parsed(name: str, text: str) -> lines.Dockerfile:
    try:
        return lines.parse(text)
    except lines.ParseError as error:
        raise lines.ParseError(f"failed to parse {name}: {error}") from None


class _Run:
    """One plan, step by step."""

    def __init__(self, work: Work, plan: Plan) -> None:
        self._work, self._plan = work, plan
        self._arguments = Arguments(work.options.arguments)
        self._finished = Finished()
        self._number = 0

    async def run(self) -> ImageInfo:
        for step in self._plan.arguments:
            await self._announce(step.code)
            self._declare(cast(Arg, step.command))
        image: ImageInfo | None = None
        for planned in self._plan.stages:
            image = await self._stage(planned)
        unused = self._arguments.unused()
        if unused:
            words = " ".join(unused)
            await self._work.output.say(f"[Warning] One or more build-args [{words}] were not consumed\n")
        if image is None:
            raise ServerError("No image was generated. Is your Dockerfile empty?")
        return image

    async def _announce(self, code: str) -> None:
        self._number += 1
        await self._work.output.step(self._number, self._plan.length, code)

    def _declare(self, argument: Arg) -> None:
        expander = Expander(self._work.escape, self._arguments.values())
        for key, value in argument.pairs:
            default = None if value is None else expander.word(value)
            self._arguments.declare_global(expander.word(key), default)

    async def _stage(self, planned: instructions.Stage) -> ImageInfo | None:
        work = self._work
        self._finished.check_name(planned.name)
        cache = await Cache.of(work.images, enabled=work.options.use_cache, names=work.options.cache_from)
        stage = Stage(work, self._arguments.stage(), cache, self._finished, planned.name)
        await self._announce(planned.code)
        stage.begin(await self._base(planned))
        await self._triggers(stage)
        await work.output.say(f" ---> {stage.short_id}\n")
        for step in planned.steps:
            await self._announce(step.code)
            await steps.perform(stage, step.command)
            await work.output.say(f" ---> {stage.short_id}\n")
        if stage.image is not None:
            await work.output.image(stage.image.id)
        self._finished.add(stage)
        return stage.image

    async def _base(self, planned: instructions.Stage) -> ImageInfo | None:
        name = Expander(self._work.escape, self._arguments.globals()).word(planned.base)
        if not name:
            raise ServerError(f"base name ({planned.base}) should not be blank")
        earlier = self._finished.named(name)
        if earlier is not None:
            return earlier.image
        if name == SCRATCH:
            return None
        return await self._work.image(name, self._platform(planned.platform))

    def _platform(self, text: str) -> oci.Platform | None:
        """Of ``FROM --platform``; None where it says nothing."""
        words = Expander(self._work.escape, self._arguments.globals()).word(text)
        try:
            return oci.parse_platform(words) if words else None
        except ValueError as error:
            raise InvalidArgument(f"failed to parse platform {words}: {error}") from None

    async def _triggers(self, stage: Stage) -> None:
        """What the base image's ONBUILDs ask for; they aren't handed on."""
        triggers, stage.config.on_build = stage.config.on_build or [], None
        if not triggers:
            return
        plural = "s" if len(triggers) > 1 else ""
        await self._work.output.say(f"# Executing {len(triggers)} build trigger{plural}\n")
        for trigger in triggers:
            try:
                step = instructions.command(lines.parse_line(trigger, self._work.escape))
            except ValueError as error:
                raise ServerError(str(error)) from None
            await steps.perform(stage, step.command)
