"""RUN: a container, its output, its end, and what it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec

from longshore.api.errors import Error, NotFound
from longshore.dockerd.archive import marks
from longshore.dockerd.backend.create import Created
from longshore.dockerd.backend.live import Live
from longshore.dockerd.build import configs
from longshore.dockerd.build.instructions import Run, refuse_flags
from longshore.dockerd.build.stages import Stage
from longshore.dockerd.build.work import Work
from longshore.dockerd.engine import Attachment, ImageInfo
from longshore.dockerd.errors import Conflict, ServerError
from longshore.dockerd.records import ContainerConfig, CreateBody, HealthConfig

LABEL: Final = "io.longshore.dockerd/build"
"""On a build's containers and leases: what a crash leaves of it is found by this."""


_ATTEMPTS: Final = 5


class CommandFailed(ServerError):
    """`status` is the command's."""

    def __init__(self, command: list[str], status: int) -> None:
        words = " ".join(command)
        super().__init__(f"The command '{words}' returned a non-zero code: {status}")
        self.status = status


async def run(stage: Stage, step: Run) -> None:
    """Raises CommandFailed."""
    refuse_flags(step)
    config = stage.config
    command = [*configs.shell(config), *step.command] if step.shell else list(step.command)
    environment = stage.arguments.environment(config.env or ())
    recorded = stage.arguments.recorded(environment)
    done = configs.with_command(
        config, [f"|{len(recorded)}", *recorded, *command] if environment else command, None
    )
    if await stage.hit(done):
        return
    wanted = configs.with_command(config, command, [""])
    wanted.env = [*(config.env or ()), *environment]
    wanted.healthcheck = HealthConfig(test=["NONE"])
    async with _container(stage.work, wanted, stage.image) as live:
        await _run(stage.work, live, command)
        await asyncio.to_thread(marks.clear, live.mounts or ())
        await stage.make(done, live.id, live.id)


@asynccontextmanager
async def _container(work: Work, config: ContainerConfig, image: ImageInfo | None) -> AsyncIterator[Live]:
    """Removed as the client wishes; always if the build is cancelled."""
    made = await _create(work, config, image)
    live = made.live
    try:
        for warning in made.warnings:
            await work.output.say(f" ---> [Warning] {warning}\n")
        await work.output.say(f" ---> Running in {live.id[:12]}\n")
        yield live
    except (ConnectionError, asyncio.CancelledError):
        # The client is gone, and with it who could look at the container.
        await _discard(work, live)
        raise
    except Exception:
        if work.options.force_remove:
            await _remove(work, live.id)
        raise
    if work.options.remove:
        await _remove(work, live.id)


async def _create(work: Work, config: ContainerConfig, image: ImageInfo | None) -> Created:
    """It is made as a whole even if we are cancelled meanwhile, and is removed then."""
    of = image or ImageInfo("", {}, "", "", ())
    creating = asyncio.ensure_future(work.containers.create(_body(config, work, image), image=of))
    try:
        return await asyncio.shield(creating)
    except asyncio.CancelledError:
        with suppress(Error):
            await _discard(work, (await creating).live)
        raise


async def _discard(work: Work, live: Live) -> None:
    """A start that was under way goes on to its end, and a container that has just started isn't removed at once."""
    for _ in range(_ATTEMPTS):
        try:
            await work.containers.remove(live.id, force=True, volumes=True)
        except Conflict:
            continue
        except Error:
            pass
        return


async def _remove(work: Work, id: str) -> None:
    with suppress(NotFound):
        await work.containers.remove(id, force=True, volumes=True)
    await work.output.say(f"Removing intermediate container {id[:12]}\n")


def _body(config: ContainerConfig, work: Work, image: ImageInfo | None) -> CreateBody:
    members = {name: getattr(config, name) for name in ContainerConfig.__struct_fields__}
    members["labels"] = {**(config.labels or {}), LABEL: ""}
    members["image"] = image.id if image else ""
    return CreateBody(**members, host_config=msgspec.structs.replace(work.options.host))


async def _run(work: Work, live: Live, command: list[str]) -> None:
    attached = work.containers.attaching.reserve(live)
    try:
        await work.containers.start(live.id)
        attachment = await attached
        if attachment is not None:
            await _print(work, attachment)
        outcome = await work.containers.wait(live.id)
    finally:
        if not attached.done():
            attached.cancel()
    if outcome.exit_code:
        raise CommandFailed(command, outcome.exit_code)


async def _print(work: Work, attachment: Attachment) -> None:
    try:
        async for stream, data in attachment.output():
            await work.output.printed(stream, data)
        await work.output.end_printed()
    finally:
        await attachment.close()


async def seem_to_run(work: Work, id: str) -> None:
    """A step that needs no container says what one would have said: clients count these lines."""
    await work.output.say(f" ---> Running in {id[:12]}\n")


async def seem_removed(work: Work, id: str) -> None:
    if work.options.remove:
        await work.output.say(f"Removing intermediate container {id[:12]}\n")
