"""The containerd below us: one that was named, the system's, or our own child."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import structlog

from longshore.api import errors
from longshore.client import AsyncClient
from longshore.dockerd.config import DEFAULT_CONTAINERD
from longshore.linux.descriptors import as_given

if TYPE_CHECKING:
    from longshore.dockerd.config import Config

log = structlog.get_logger("dockerd.containerd")

STARTING: Final = 15.0  # seconds until it must answer
STOPPING: Final = 15.0  # seconds after SIGTERM, until SIGKILL
RESTART_PAUSE: Final = 0.5
_LONGEST: Final = 107 - len(".ttrpc")  # bytes; containerd's second socket adds this


@asynccontextmanager
async def containerd(config: Config) -> AsyncIterator[AsyncClient]:
    """A client of a containerd that answers; sets `config.containerd`. Unavailable if it doesn't within 15 s."""
    config.containerd = config.containerd or _installed()
    child = None if config.containerd else Child(config)
    if child is not None:
        config.containerd = child.address
        await child.start()
    try:
        # Pipes of execs; a folder of our own, which recovery may sweep.
        pipes = os.path.join(config.exec_root, "fifo")
        async with AsyncClient(config.containerd, config.containerd_namespace, fifo_dir=pipes) as client:
            await _answering(client)
            yield client
    finally:
        if child is not None:
            await child.stop()


async def _answering(client: AsyncClient) -> None:
    deadline = time.monotonic() + STARTING
    while True:
        problem = "nobody listens there"
        try:
            # gRPC tries again after ever longer pauses; looking at the socket first is cheap.
            if _listens(client.address):
                await client.version()
                return
        except errors.Unavailable as error:
            problem = error.message
        if time.monotonic() > deadline:
            raise errors.Unavailable(f"containerd does not answer on {client.address}: {problem}")
        await asyncio.sleep(0.02)


class Child:
    """containerd as a process of ours: started again when it dies, stopped with us.

    It survives a dockerd that is killed, and the next one takes it over.
    """

    def __init__(self, config: Config) -> None:
        self._root = os.path.join(config.data_root, "containerd")
        self._state = os.path.join(config.exec_root, "containerd")
        self._level = "debug" if config.debug else config.log_level
        self.address = _short(os.path.join(self._state, "containerd.sock"))
        self._process: subprocess.Popen[bytes] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        for folder in (self._root, self._state, os.path.dirname(self.address)):
            os.makedirs(folder, mode=0o711, exist_ok=True)
        if not _listens(self.address):
            self._spawn()
        else:
            log.info("containerd is running already", address=self.address)
        self._watching = asyncio.create_task(self._watch())

    def _spawn(self) -> None:
        flags = ["--root", self._root, "--state", self._state, "--address", self.address]
        environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        self._process = subprocess.Popen(
            as_given(
                [sys.executable, "-I", "-m", "longshore.containerd.main", *flags, "--log-level", self._level]
            ),
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        log.info("started containerd", pid=self._process.pid, address=self.address)

    async def _watch(self) -> None:
        while True:
            if self._process is not None:
                status = await asyncio.to_thread(self._process.wait)
                log.error("containerd ended: starting it again", status=status)
                await asyncio.sleep(RESTART_PAUSE)
                self._spawn()
            else:
                await asyncio.sleep(RESTART_PAUSE)
                if not _listens(self.address):
                    self._spawn()

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        pid = self._pid()
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + STOPPING
            while time.monotonic() < deadline:
                if self._process is not None:
                    if self._process.poll() is not None:
                        return
                else:
                    os.kill(pid, 0)
                await asyncio.sleep(0.05)
            log.warning("containerd did not stop: killed", pid=pid)
            os.kill(pid, signal.SIGKILL)
            if self._process is not None:
                await asyncio.to_thread(self._process.wait)

    def _pid(self) -> int | None:
        """Ours, or that of the one that we took over: it is in its lock file."""
        if self._process is not None:
            return self._process.pid if self._process.poll() is None else None
        with suppress(OSError, ValueError), open(os.path.join(self._root, "longshore.lock")) as file:
            return int(file.read())
        return None


def _installed() -> str:
    return DEFAULT_CONTAINERD if os.path.exists(DEFAULT_CONTAINERD) else ""


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _short(path: str) -> str:
    """The path, or, where that is too long for a socket, one made of its hash."""
    if len(os.fsencode(path)) <= _LONGEST:
        return path
    return f"/run/longshore-s/{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.sock"
