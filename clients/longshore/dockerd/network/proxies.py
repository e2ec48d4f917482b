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
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from longshore.dockerd.errors import ServerError
from longshore.dockerd.network.records import Mapping, Proxy
from longshore.linux import processes
from longshore.zygote.client import WorkerDied, WorkerError

if TYPE_CHECKING:
    from longshore.dockerd.network.ports import Bound
    from longshore.zygote.client import Zygote

_WORKER: Final = "longshore.dockerd.network.worker:start_proxies"
_BATCH: Final = 200
"""Fewer than the descriptors that one packet carries."""
_READY_WITHIN: Final = 16.0
"""Seconds; the original waits as long."""
_ENDS_WITHIN: Final = 2.0


class Proxies:
    """`path` "" is our own program; `folder` is where they work, and this dockerd's alone."""

    def __init__(self, zygote: Zygote, folder: str, path: str = "") -> None:
        self._zygote, self._folder, self._path = zygote, folder, path
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    async def start(self, bound: Sequence[Bound], started: list[Proxy]) -> None:
        """One for each, in the place of its holder, which is closed in any case; `started` is filled as they start.

        ServerError with the reason of the first that didn't.
        """
        try:
            if self._path:
                await self._execute_all(bound, started)
                return
            batches = [bound[at : at + _BATCH] for at in range(0, len(bound), _BATCH)]
            for batch in batches:
                await self._fork(batch, started)
        finally:
            for each in bound:
                each.holder.close()

    async def _fork(self, batch: Sequence[Bound], started: list[Proxy]) -> None:
        wanted = [_arguments(each.mapping) for each in batch]
        arguments = {"folder": self._folder, "proxies": wanted}
        fds = [each.holder.fileno() for each in batch]
        try:
            answers = await self._zygote.call(_WORKER, arguments, fds)
        except (WorkerError, WorkerDied) as error:
            raise ServerError(f"Error starting userland proxy: {error}") from error
        for each, answer in zip(batch, answers, strict=True):
            if "pid" in answer:
                started.append(_named(each.mapping, answer["pid"]))
        for answer in answers:
            if "error" in answer:
                raise ServerError(f"Error starting userland proxy: {answer['error']}")

    async def _execute_all(self, bound: Sequence[Bound], started: list[Proxy]) -> None:
        for each in bound:
            each.holder.close()  # it binds by itself
            pid = await asyncio.to_thread(self._execute, each.mapping)
            started.append(_named(each.mapping, pid))

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
        command = ["/bin/sh", "-c", 'exec "$@" 3>&1 1>&2', "sh", *words]
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=status,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd=self._folder,
            )
        except OSError as error:
            raise ServerError(f"Error starting userland proxy: {error}") from error

    async def end_strays(self, known: Iterable[Proxy]) -> None:
        """Those of this dockerd that nobody knows: it was killed between starting them and writing that down."""
        strays = await asyncio.to_thread(self._strays, {proxy.pid for proxy in known})
        await self.stop(strays)

    def _strays(self, known: set[int]) -> list[Proxy]:
        names = {"docker-proxy", os.path.basename(self._path)[:15]}
        folder = os.path.realpath(self._folder)
        found = []
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            with suppress(OSError):
                if pid not in known and os.readlink(f"/proc/{pid}/cwd") == folder and _name_of(pid) in names:
                    found.append(Proxy(mapping=_NOWHERE, pid=pid, start_time=processes.start_time(pid)))
        return found

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


_NOWHERE: Final = Mapping(protocol="", host_ip="", host_port=0, container_ip="", container_port=0)


def _name_of(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip()


def _arguments(mapping: Mapping) -> dict[str, Any]:
    return {
        "proto": mapping.protocol,
        "host_ip": mapping.host_ip,
        "host_port": mapping.host_port,
        "container_ip": mapping.container_ip,
        "container_port": mapping.container_port,
        "outlive": True,
    }


def _named(mapping: Mapping, pid: int) -> Proxy:
    return Proxy(mapping=mapping, pid=pid, start_time=processes.start_time(pid))


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
