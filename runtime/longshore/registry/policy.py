"""How patient we are with a registry: retries, delays, and when a transfer counts as stalled."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

RETRIED_STATUSES = frozenset((408, 429, 500, 502, 503, 504))


class Policy(NamedTuple):
    """All times in seconds.

    `attempts` counts tries without progress at one host. A transfer that
    brings fewer than `stall_bytes` within `stall_after` is dropped and taken
    up again where it stood. `longest_wait` also bounds what a Retry-After may
    ask for.
    """

    attempts: int = 6
    first_delay: float = 0.2
    longest_delay: float = 10
    longest_wait: float = 60
    dial_timeout: float = 30
    answer_timeout: float = 60
    stall_after: float = 30
    stall_bytes: int = 1024

    def delay(
        self,
        attempt: int,
        retry_after: float | None = None,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> float:
        """Seconds to wait after failure number `attempt` (from 1), up to a quarter more or less at random."""
        if retry_after is not None:
            return min(max(retry_after, 0), self.longest_wait)
        return min(self.first_delay * 2.0 ** (attempt - 1), self.longest_delay) * jitter(0.75, 1.25)


DEFAULT_POLICY = Policy()


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds from a Retry-After header (a number, or a date); None when there is none to be understood."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max((when - (now or datetime.now(UTC))).total_seconds(), 0)
