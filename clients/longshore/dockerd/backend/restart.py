"""When an ended container comes back, and after how long: rules without a clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from longshore.dockerd.records import RestartPolicy

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 60.0
LONG_ENOUGH: Final = 10.0
"""Seconds of running after which the next delay is the first again."""


def wanted(policy: RestartPolicy, exit_code: int, manually_stopped: bool, restarts: int) -> bool:
    """Whether the policy brings back a container that ended while dockerd was there.

    `restarts` is how often it did already since somebody started it.
    """
    if manually_stopped:
        return False
    if policy.name == "on-failure":
        limit = policy.maximum_retry_count
        return exit_code != 0 and (limit == 0 or restarts < limit)
    return policy.name in ("always", "unless-stopped")


def wanted_at_boot(policy: RestartPolicy, exit_code: int, manually_stopped: bool, restarts: int) -> bool:
    """The same when dockerd starts: "always" means it, also for what was stopped by hand."""
    return policy.name == "always" or wanted(policy, exit_code, manually_stopped, restarts)


@dataclass
class Backoff:
    """Delays that double from 100 ms to a minute; a long run starts anew."""

    delay: float = 0.0

    def next(self, ran: float) -> float:
        """Seconds to wait after a run of `ran` seconds."""
        if ran >= LONG_ENOUGH or not self.delay:
            self.delay = FIRST_DELAY
        else:
            self.delay = min(self.delay * 2, LONGEST_DELAY)
        return self.delay
