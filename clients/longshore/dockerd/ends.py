"""Told when a process ends that isn't our child: loggers and docker-proxies, which outlive dockerd."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Hashable
from contextlib import suppress

from longshore.linux import processes


class Ends:
    """One descriptor per process, in the event loop. `close` forgets them all."""

    def __init__(self) -> None:
        self._fds: dict[Hashable, int] = {}

    def expect(self, key: Hashable, pid: int, tell: Callable[[], object]) -> None:
        """Call `tell` once, when `pid` has ended, unless `forget(key)` comes first. Replaces what `key` stood for."""
        self.forget(key)
        loop = asyncio.get_running_loop()
        try:
            self._fds[key] = fd = processes.pidfd_open(pid)
        except ProcessLookupError:
            loop.call_soon(tell)
            return
        except OSError:
            return  # no descriptor is left; a dockerd that is started again will see to it
        loop.add_reader(fd, self._ended, key, tell)

    def _ended(self, key: Hashable, tell: Callable[[], object]) -> None:
        self.forget(key)
        tell()

    def forget(self, key: Hashable) -> None:
        """No error if there is none."""
        fd = self._fds.pop(key, None)
        if fd is not None:
            with suppress(RuntimeError):  # the loop is over
                asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def close(self) -> None:
        for key in list(self._fds):
            self.forget(key)
