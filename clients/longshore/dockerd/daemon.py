"""The running dockerd: one of each part, composed, served, and taken down in order."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
import socket
import sys
from argparse import Namespace
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from longshore.api import errors
from longshore.dockerd import builtins, identity, listeners, output
from longshore.dockerd import config as configuration
from longshore.dockerd.engine import Engine
from longshore.dockerd.server import Server
from longshore.dockerd.supervisor import containerd
from longshore.dockerd.version import VERSION
from longshore.systemd import notify

if TYPE_CHECKING:
    from longshore.dockerd.config import Config
    from longshore.zygote.client import Zygote

log = structlog.get_logger("dockerd")

PATIENCE: Final = 3  # signals that ask us to end, until we end at once


class Daemon:
    """One dockerd. `run` returns its exit status."""

    def __init__(
        self, config: Config, zygote: Zygote, arguments: Namespace, inherited: Mapping[int, str]
    ) -> None:
        self._config, self._zygote, self._arguments = config, zygote, arguments
        self._inherited = inherited

    async def run(self) -> int:
        stop = Stop()
        _handle_signals(stop)
        try:
            async with AsyncExitStack() as stack:
                engine = await self._start(stack)
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload, engine)
                log.info("daemon has completed initialization", version=VERSION, hosts=self._config.hosts)
                notify("READY=1")
                await stop.wait()
                notify("STOPPING=1")
                log.info("stopping")
        except asyncio.CancelledError:
            if not stop.wanted:
                raise
        log.info("daemon shutdown complete")
        return 0

    async def _start(self, stack: AsyncExitStack) -> Engine:
        stack.push_async_callback(self._zygote.close)
        context = listeners.context(self._config)
        # Bound first, served last: a client that comes early waits instead of being refused.
        sockets = stack.enter_context(listeners.listening(self._config, self._inherited))
        client = await stack.enter_async_context(containerd(self._config))
        engine = await builtins.compose(self._config, client, self._zygote, stack)
        await _serve(Server(engine, builtins.routes()), sockets, context, stack)
        gc.collect()
        gc.freeze()
        return engine

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


# -- serving ------------------------------------------------------------------------------------------------


async def _serve(
    server: Server, sockets: list[listeners.Listener], context: SSLContext | None, stack: AsyncExitStack
) -> None:
    loop = asyncio.get_running_loop()
    stack.push_async_callback(server.close)
    for listener in sockets:
        protocol = partial(server.protocol, context if listener.secure else None)
        accepting = await loop.create_server(protocol, sock=listener.socket, backlog=listeners.BACKLOG)
        stack.callback(accepting.close)
        log.info("API listen on", address=str(listener.address))


class Stop:
    """That we are to end. Who asks while we start ends the start; who asks three times ends everything at once."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._news = asyncio.Event()
        self._waited_for = False
        self._asked = 0

    @property
    def wanted(self) -> bool:
        return self._asked > 0

    def ask(self) -> None:
        self._asked += 1
        self._news.set()
        if self._asked == 1 and not self._waited_for and self._task is not None:
            self._task.cancel()
        if self._asked == PATIENCE:
            log.error("forced shutdown without cleaning up", signals=self._asked)
            os._exit(1)

    async def wait(self) -> None:
        self._waited_for = True
        await self._news.wait()


def _handle_signals(stop: Stop) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.ask)
    # All threads' stacks on stderr, even while the loop is stuck: the handler is C code.
    faulthandler.register(signal.SIGUSR1, sys.stderr, all_threads=True)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
