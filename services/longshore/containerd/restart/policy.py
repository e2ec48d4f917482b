"""When a container is to be started again, by its labels (which nerdctl and others set). No I/O.

containerd.io/restart.status              running | stopped: what it should be; without it we keep out
containerd.io/restart.policy              always (default) | on-failure[:N] | unless-stopped | no
containerd.io/restart.count               how often that was done; ours to write
containerd.io/restart.explicitly-stopped  true: somebody stopped it on purpose
containerd.io/restart.loguri              where its output goes: binary:// or file://
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple

PREFIX: Final = "containerd.io/restart."
STATUS, POLICY, COUNT = f"{PREFIX}status", f"{PREFIX}policy", f"{PREFIX}count"
STOPPED_BY_HAND, LOG_URI = f"{PREFIX}explicitly-stopped", f"{PREFIX}loguri"
POLICIES: Final = ("always", "on-failure", "unless-stopped", "no")


class Deed(Enum):
    NOTHING = "nothing"
    START = "start"
    STOP = "stop"


class Task(NamedTuple):
    """`up`: created, running or paused. `status` is what it exited with, 0 if there is no task."""

    up: bool
    status: int = 0


def decide(labels: Mapping[str, str], task: Task) -> Deed:
    """What the labels ask for, given what is."""
    match labels.get(STATUS):
        case "running" if not task.up and _again(labels, task.status):
            return Deed.START
        case "stopped" if task.up:
            return Deed.STOP
        case _:
            return Deed.NOTHING


def _again(labels: Mapping[str, str], status: int) -> bool:
    policy, _, limit = labels.get(POLICY, "").partition(":")
    match policy:
        case "" | "always":
            return True
        case "unless-stopped":
            return labels.get(STOPPED_BY_HAND) != "true"
        case "on-failure":
            most = int(limit) if limit.isdecimal() else 0
            return status != 0 and (not most or restarts(labels) < most)
        case _:
            return False


def restarts(labels: Mapping[str, str]) -> int:
    """How often it was started again."""
    count = labels.get(COUNT, "")
    return int(count) if count.isdecimal() and len(count) < 10 else 0
