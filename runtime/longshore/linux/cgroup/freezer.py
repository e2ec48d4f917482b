"""freezer: stop and continue all tasks of a cgroup at once."""

from __future__ import annotations

import os
import time

from longshore.linux import files
from longshore.linux.cgroup import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_TRIES = 1000
_PAUSE = 0.01


def frozen(path: str, version: int) -> bool:
    """Whether the cgroup is frozen, or asked to freeze."""
    if version == 2:
        return values.text(path + "/cgroup.freeze") == "1"
    return values.text(path + "/freezer.state") in ("FROZEN", "FREEZING")


def freeze(path: str, version: int) -> None:
    """Freeze and wait until all tasks are frozen; OSError (ETIMEDOUT), thawed again, if they don't come to rest."""
    if version == 2:
        files.write_file(path + "/cgroup.freeze", "1")
        _wait(path, lambda: values.table(path + "/cgroup.events").get("frozen") == 1, version)
    else:
        _wait(path, lambda: _freeze_v1(path), version)


def _freeze_v1(path: str) -> bool:
    # A task that forks while we freeze can keep the state at FREEZING: writing again is the cure.
    files.write_file(path + "/freezer.state", "FROZEN")
    return values.text(path + "/freezer.state") == "FROZEN"


def _wait(path: str, done: Callable[[], bool], version: int) -> None:
    for attempt in range(_TRIES):
        if done():
            return
        if attempt > 10:
            time.sleep(_PAUSE)
        if attempt % 25 == 24 and version == 1:
            thaw(path, version)
    thaw(path, version)
    raise OSError(110, "unable to freeze", path)


def thaw(path: str, version: int) -> None:
    """Let the tasks go on."""
    if version == 2:
        files.write_file(path + "/cgroup.freeze", "0")
    elif os.path.exists(path + "/freezer.state"):
        files.write_file(path + "/freezer.state", "THAWED")
