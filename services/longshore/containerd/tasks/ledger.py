"""Which processes of a container have been started, and how those that ended did.

One ledger per shim, in memory. It answers one question when a shim dies: whose
exit has nobody reported yet? It learns of starts from the calls that pass
through the daemon (after a restart from the shim itself) and of exits from the
journal, whoever put them there.
"""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp


class Exit(NamedTuple):
    """How a process ended. `id` is "" for the container's init, else the exec's."""

    id: str
    pid: int
    status: int
    at: Timestamp


class Ledger:
    """The processes of one container."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._exits: dict[str, Exit] = {}
        self.deleted = False

    def started(self, id: str, pid: int) -> None:
        """A process runs (or init is created). Its exit may have been noted before its start was."""
        known = self._exits.get(id)
        if known is not None and known.pid == pid:
            return
        self._exits.pop(id, None)
        self._running[id] = pid

    def exited(self, exit: Exit) -> None:
        """A process ended."""
        self._running.pop(exit.id, None)
        self._exits[exit.id] = exit

    def forget(self, id: str) -> None:
        """An exec was deleted: its id may be used again."""
        self._running.pop(id, None)
        self._exits.pop(id, None)

    def exit_of(self, id: str) -> Exit | None:
        return self._exits.get(id)

    def pid_of(self, id: str) -> int:
        """The pid of a process, ended or not; 0 when unknown."""
        known = self._exits.get(id)
        return known.pid if known is not None else self._running.get(id, 0)

    def unfinished(self) -> list[tuple[str, int]]:
        """(id, pid) of what has not ended, execs first: init's exit is the last that a client hears of."""
        return sorted(self._running.items(), key=lambda item: (item[0] == "", item[0]))
