"""What this dockerd consists of: the one list of its parts and of its routes.

Parts are made in the order of what they need, started in that order, and
ended in the opposite one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import structlog

from longshore.dockerd.backend.containers import Containers
from longshore.dockerd.build.builder import Builder
from longshore.dockerd.engine import Engine
from longshore.dockerd.events import Events
from longshore.dockerd.http import Route
from longshore.dockerd.images.store import Images
from longshore.dockerd.logs.manager import Logs
from longshore.dockerd.network.manager import Networks
from longshore.dockerd.routes import (
    archive,
    auth,
    build,
    commit,
    containers,
    distribution,
    exec,
    images,
    networks,
    plugins,
    session,
    stats,
    swarm,
    system,
    volumes,
)
from longshore.dockerd.state import State
from longshore.dockerd.volumes.manager import Volumes

if TYPE_CHECKING:
    from longshore.client import AsyncClient
    from longshore.dockerd.config import Config
    from longshore.zygote.client import Zygote

log = structlog.get_logger("dockerd")

ROUTE_MODULES: Final = (
    system,
    auth,
    containers,
    exec,
    archive,
    stats,
    commit,
    images,
    distribution,
    build,
    networks,
    volumes,
    session,
    plugins,
    swarm,
)


def routes() -> Iterator[Route]:
    for module in ROUTE_MODULES:
        yield from module.ROUTES


async def compose(config: Config, client: AsyncClient, zygote: Zygote, stack: AsyncExitStack) -> Engine:
    """One of each part, running; they end with `stack`."""
    state = stack.enter_context(State(os.path.join(config.data_root, "state.sqlite")))
    events = Events(os.path.join(config.data_root, "events.jsonl"))
    stack.callback(events.close)
    images = Images(client, state, events, config, zygote)
    volumes = Volumes(state, events, config, zygote)
    networks = Networks(state, events, config, zygote)
    logs = Logs(config, zygote)
    stack.push_async_callback(logs.close)
    containers = Containers(client, state, events, config, zygote, images, volumes, networks, logs)
    builder = Builder(client, state, events, config, zygote, images, containers)
    for part in (images, volumes, networks):
        stack.push_async_callback(part.close)
        await part.start()
    stack.push_async_callback(_end_containers, containers, config)
    await containers.start_up()
    stack.push_async_callback(builder.close)
    await builder.start()
    return Engine(
        config=config,
        client=client,
        state=state,
        zygote=zygote,
        events=events,
        images=images,
        volumes=volumes,
        networks=networks,
        containers=containers,
        builder=builder,
    )


async def _end_containers(containers: Containers, config: Config) -> None:
    """They run on, unless `live_restore` is off: then they have `shutdown_timeout` seconds to end."""
    if config.live_restore:
        await containers.close()
        return
    try:
        async with asyncio.timeout(config.shutdown_timeout if config.shutdown_timeout >= 0 else None):
            await containers.close(stop=True)
    except TimeoutError:
        log.error("containers did not end in time: they run on", seconds=config.shutdown_timeout)
