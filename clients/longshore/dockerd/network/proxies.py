"""docker-proxy processes: one per published port, started with the socket that already listens.

Ours is forked from dockerd's zygote; `--userland-proxy-path` names another
program, which is started as the original starts it and binds by itself. Both
outlive a killed dockerd, so a restarted one takes them over or ends them.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from longshore.dockerd.errors import ServerError
from longshore.dockerd.network.records import Mapping, Proxy
from longshore.linux import processes
from longshore.zygote.client import WorkerDied, WorkerError

if TYPE_CHECKING:
    from longshore.zygote.client import Zygote

_READY_WITHIN: Final = 16.0
"""Seconds; the original waits as long."""
_ENDS_WITHIN: Final = 2.0


class Proxies:
    """`path` "" is our own program."""

    def __init__(self, zygote: Zygote, path: str = "") -> None:
        self._zygote, self._path = zygote, path
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    async def start(self, mapping: Mapping, listener: socket.socket) -> Proxy:
        """Takes the listener's place; it is closed in any case. ServerError."""
        with listener:
            if not self._path:
                pid = await self._fork(mapping, listener)
            else:
                listener.close()
                pid = await asyncio.to_thread(self._execute, mapping)
        return Proxy(mapping=mapping, pid=pid, start_time=processes.start_time(pid))

    async def _fork(self, mapping: Mapping, listener: socket.socket) -> int:
        arguments = {
            "proto": mapping.protocol,
            "host_ip": mapping.host_ip,
            "host_port": mapping.host_port,
            "container_ip": mapping.container_ip,
            "container_port": mapping.container_port,
            "outlive": True,
        }
        try:
            answer = await self._zygote.call("longshore.proxy.main:start", arguments, [listener.fileno()])
        except (WorkerError, WorkerDied) as error:
            raise ServerError(f"Error starting userland proxy: {error}") from error
        return int(answer["pid"])

    def _execute(self, mapping: Mapping) -> int:
        words = [
            self._path,
            *("-proto", mapping.protocol),
            *("-host-ip", mapping.host_ip, "-host-port", str(mapping.host_port)),
            *("-container-ip", mapping.container_ip, "-container-port", str(mapping.container_port)),
        ]
        reading, writing = os.pipe()
        try:
            with open(writing, "wb", buffering=0) as status:
                child = self._spawn(words, status.fileno())
            answer = _answer(reading)
        finally:
            os.close(reading)
        if not answer.startswith(b"0\n"):
            child.kill()
            child.wait()
            reason = answer.partition(b"\n")[2].decode(errors="replace").strip()
            raise ServerError(f"Error starting userland proxy: {reason or 'it did not become ready'}")
        self._children[child.pid] = child
        return child.pid

    def _spawn(self, words: list[str], status: int) -> subprocess.Popen[bytes]:
        # The status pipe has to be descriptor 3: a shell puts it there, as no Python may run between fork and exec.
        command = ["/bin/sh", "-c", f'exec "$@" 3>&{status}', "sh", *words]
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[status],
                start_new_session=True,
            )
        except OSError as error:
            raise ServerError(f"Error starting userland proxy: {error}") from error

    def is_alive(self, proxy: Proxy) -> bool:
        with suppress(ProcessLookupError):
            return processes.start_time(proxy.pid) == proxy.start_time and not processes.is_zombie(proxy.pid)
        return False

    async def stop(self, proxies: list[Proxy]) -> None:
        """End them and wait until their ports are free; those that are gone already are fine."""
        living = [fd for fd in map(_opened, proxies) if fd is not None]
        if living:
            await asyncio.to_thread(_end, living)
        for proxy in proxies:
            child = self._children.pop(proxy.pid, None)
            if child is not None:
                await asyncio.to_thread(child.wait)


def _answer(reading: int) -> bytes:
    ready, _, _ = select.select([reading], [], [], _READY_WITHIN)
    data = b""
    while ready and (part := os.read(reading, 4096)):
        data += part
    return data


def _opened(proxy: Proxy) -> int | None:
    """A pidfd of the very process that was started."""
    try:
        fd = processes.pidfd_open(proxy.pid)
    except ProcessLookupError:
        return None
    with suppress(ProcessLookupError):
        if processes.start_time(proxy.pid) == proxy.start_time:
            return fd
    os.close(fd)
    return None


def _end(living: list[int]) -> None:
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for fd in living:
                with suppress(ProcessLookupError):
                    processes.pidfd_send_signal(fd, number)
            if _ended(living):
                return
    finally:
        for fd in living:
            os.close(fd)


def _ended(living: list[int]) -> bool:
    waiting = select.poll()
    for fd in living:
        waiting.register(fd, select.POLLIN)
    rest = set(living)
    while rest:
        found = waiting.poll(_ENDS_WITHIN * 1000)
        if not found:
            return False
        for fd, _ in found:
            waiting.unregister(fd)
            rest.discard(fd)
    return True
