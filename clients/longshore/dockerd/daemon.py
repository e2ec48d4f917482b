"""The running dockerd: one of each part, composed, served, and taken down in order."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import importlib
import os
import pkgutil
import signal
import socket
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from longshore.api import errors
from longshore.client import AsyncClient
from longshore.dockerd import config as configuration
from longshore.dockerd import identity, listeners, output, routes
from longshore.dockerd.backend.containers import Containers
from longshore.dockerd.engine import Engine
from longshore.dockerd.events import Events
from longshore.dockerd.http import Route
from longshore.dockerd.server import Server
from longshore.dockerd.state import State
from longshore.dockerd.supervisor import containerd
from longshore.dockerd.version import VERSION

if TYPE_CHECKING:
    from longshore.dockerd.config import Config
    from longshore.zygote.client import Zygote

log = structlog.get_logger("dockerd")


class Daemon:
    """One dockerd. `run` returns its exit status."""

    def __init__(
        self, config: Config, zygote: Zygote, arguments: Namespace, inherited: Mapping[int, str]
    ) -> None:
        self._config, self._zygote, self._arguments = config, zygote, arguments
        self._inherited = inherited

    async def run(self) -> int:
        stop = asyncio.Event()
        _handle_signals(stop)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._zygote.close)
            # Bound first, served last: a client that comes early waits instead of being refused.
            sockets = stack.enter_context(listeners.listening(self._config, self._inherited))
            client = await stack.enter_async_context(containerd(self._config))
            engine = await self._compose(client, stack)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload, engine)
            server = Server(engine, _routes())
            await _serve(server, sockets, listeners.context(self._config), stack)
            gc.collect()
            gc.freeze()
            log.info("daemon has completed initialization", version=VERSION, hosts=self._config.hosts)
            notify("READY=1")
            await stop.wait()
            notify("STOPPING=1")
            log.info("stopping")
        log.info("daemon shutdown complete")
        return 0

    async def _compose(self, client: AsyncClient, stack: AsyncExitStack) -> Engine:
        """Make the parts, then start them in this order; they end in the opposite one."""
        config, zygote = self._config, self._zygote
        state = stack.enter_context(State(os.path.join(config.data_root, "state.sqlite")))
        events = Events(os.path.join(config.data_root, "events.jsonl"))
        stack.callback(events.close)
        images = _part("images.store", "Images", client, state, events, config, zygote)
        volumes = _part("volumes.manager", "Volumes", state, events, config, zygote)
        networks = _part("network.manager", "Networks", state, events, config, zygote)
        logs = _part("logs.manager", "Logs", config, zygote)
        containers = _part(
            "backend.containers",
            "Containers",
            *(client, state, events, config, zygote, images, volumes, networks, logs),
        )
        builder = _part("build.builder", "Builder", client, state, events, config, zygote, images, containers)
        for part in (images, volumes, networks, logs, containers, builder):
            await _start(part, stack, config)
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

    def _reload(self, engine: Engine) -> None:
        """SIGHUP. A file that can't be used changes nothing."""
        try:
            fresh = configuration.reload(
                self._config,
                configuration.flags_of(self._arguments),
                must_exist=self._arguments.config_file is not None,
            )
        except (errors.Error, ValueError, OSError, msgspec.MsgspecError) as error:
            log.error("the configuration was not reloaded", error=str(error))
            return
        output.set_level("debug" if self._config.debug else self._config.log_level)
        attributes = {key: _attribute(value) for key, value in fresh.items()}
        attributes["name"] = socket.gethostname()
        engine.events.publish("daemon", "reload", identity.of(self._config.data_root), attributes)
        log.info("reloaded configuration", **attributes)


def _attribute(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


# -- parts --------------------------------------------------------------------------------------------------


class Missing:
    """In place of a part that this dockerd doesn't have: whatever is asked of it is answered 501."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise errors.Unimplemented(f"this daemon has no {self._name}")


def _part(module: str, name: str, *arguments: Any) -> Any:
    try:
        kind = getattr(importlib.import_module(f"longshore.dockerd.{module}"), name)
        return kind(*arguments)
    except Exception as error:
        log.error("a part is missing", part=name, error=repr(error), exc_info=error)
        return Missing(name.lower())


async def _start(part: Any, stack: AsyncExitStack, config: Config) -> None:
    if isinstance(part, Missing):
        return
    if isinstance(part, Containers):
        stack.push_async_callback(_end_containers, part, config)
    elif hasattr(part, "close"):
        stack.push_async_callback(part.close)
    # `Containers.start` starts one of them.
    start = getattr(part, "start_up", None) or getattr(part, "start", None)
    if start is not None:
        await start()


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


def _routes() -> Iterator[Route]:
    for module in pkgutil.iter_modules(routes.__path__):
        try:
            yield from importlib.import_module(f"longshore.dockerd.routes.{module.name}").ROUTES
        except Exception as error:
            log.error("routes are missing", module=module.name, exc_info=error)


# -- serving ------------------------------------------------------------------------------------------------


async def _serve(
    server: Server, sockets: list[listeners.Listener], context: Any, stack: AsyncExitStack
) -> None:
    loop = asyncio.get_running_loop()
    stack.push_async_callback(server.close)
    for listener in sockets:
        protocol = partial(server.protocol, context if listener.secure else None)
        accepting = await loop.create_server(protocol, sock=listener.socket, backlog=listeners.BACKLOG)
        stack.callback(accepting.close)
        log.info("API listen on", address=str(listener.address))


def _handle_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # All threads' stacks on stderr, even while the loop is stuck: the handler is C code.
    faulthandler.register(signal.SIGUSR1, sys.stderr, all_threads=True)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def notify(state: str) -> None:
    """Tell systemd, if it started us (sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), address)
