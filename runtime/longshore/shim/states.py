"""The life of a task as a table: what may be asked of a process in which state.

    init:   created --start--> running --exit--> stopped --delete--> (gone)
               |                 |  ^               ^ ^
               |            pause|  |resume         | |
               |                 v  |               | |
               |                paused ----exit-----+ |
               +----------exit (killed early)---------+   created --delete--> (gone)

    exec:   created --start--> running --exit--> stopped --delete--> (gone)

Whatever the tables don't allow is an error; the words are those of the Go
shim, as clients and their tests match them. Its errors have no class, so
neither have ours: they travel as UNKNOWN.
"""

from __future__ import annotations

from typing import Literal

from longshore.api.errors import Error, NotFound
from longshore.api.types.task.task_pb2 import Status

State = Literal["created", "running", "paused", "stopped"]
Verb = Literal["start", "pause", "resume", "checkpoint", "update", "exec", "kill", "resize", "delete"]

STATUS: dict[State, Status.ValueType] = {
    "created": Status.CREATED,
    "running": Status.RUNNING,
    "paused": Status.PAUSED,
    "stopped": Status.STOPPED,
}

INIT: dict[State, frozenset[Verb]] = {
    "created": frozenset({"start", "update", "exec", "kill", "resize", "delete"}),
    "running": frozenset({"pause", "checkpoint", "update", "exec", "kill", "resize"}),
    "paused": frozenset({"resume", "checkpoint", "update", "kill", "resize"}),
    "stopped": frozenset({"delete"}),
}

EXEC: dict[State, frozenset[Verb]] = {
    "created": frozenset({"start", "resize", "delete", "kill"}),
    "running": frozenset({"kill", "resize"}),
    "paused": frozenset({"kill", "resize"}),
    "stopped": frozenset({"delete"}),
}

_WORDS: dict[tuple[State, Verb], str] = {
    ("created", "pause"): "cannot pause task in created state",
    ("created", "resume"): "cannot resume task in created state",
    ("created", "checkpoint"): "cannot checkpoint a task in created state",
    ("running", "start"): "cannot start a running process",
    ("running", "resume"): "cannot resume a running process",
    ("running", "delete"): "cannot delete a running process",
    ("paused", "start"): "cannot start a paused process",
    ("paused", "pause"): "cannot pause a paused container",
    ("paused", "delete"): "cannot delete a paused process",
    ("paused", "exec"): "cannot exec in a paused state",
    ("stopped", "start"): "cannot start a stopped process",
    ("stopped", "pause"): "cannot pause a stopped container",
    ("stopped", "resume"): "cannot resume a stopped container",
    ("stopped", "checkpoint"): "cannot checkpoint a stopped container",
    ("stopped", "update"): "cannot update a stopped container",
    ("stopped", "exec"): "cannot exec in a stopped state",
    ("stopped", "resize"): "cannot resize a stopped container",
}


def check(table: dict[State, frozenset[Verb]], state: State, verb: Verb) -> None:
    """Raise when `verb` is not allowed in `state`."""
    if verb in table[state]:
        return
    if verb == "kill":
        raise NotFound("process already finished: not found")
    raise Error(_WORDS.get((state, verb), f"cannot {verb} a {state} process"))
