"""Health checks as data: which command, how often, and what its answers come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from longshore.dockerd.backend import times
from longshore.dockerd.records import ContainerConfig, Health, HealthConfig, HealthResult

INTERVAL: Final = 30 * times.SECOND
TIMEOUT: Final = 30 * times.SECOND
START_INTERVAL: Final = 5 * times.SECOND
RETRIES: Final = 3
LOGGED: Final = 5
OUTPUT_LIMIT: Final = 4096
DEFAULT_SHELL: Final = ("/bin/sh", "-c")


class Plan(NamedTuple):
    """Seconds."""

    command: tuple[str, ...]
    interval: float
    timeout: float
    start_period: float
    start_interval: float
    retries: int


def plan(config: ContainerConfig) -> Plan | None:
    """None without a health check."""
    check = config.healthcheck
    test = list(check.test or ()) if check else []
    if check is None or not test or test[0] == "NONE":
        return None
    command = _command(test, config.shell)
    return Plan(command, *_times(check), check.retries or RETRIES) if command else None


def _command(test: Sequence[str], shell: Sequence[str] | None) -> tuple[str, ...]:
    kind, *words = test
    if kind == "CMD":
        return tuple(words)
    if kind == "CMD-SHELL" and words:
        return (*(shell or DEFAULT_SHELL), words[0])
    return ()


def _times(check: HealthConfig) -> tuple[float, float, float, float]:
    given = (
        check.interval or INTERVAL,
        check.timeout or TIMEOUT,
        check.start_period,
        check.start_interval or START_INTERVAL,
    )
    interval, timeout, start_period, start_interval = (value / times.SECOND for value in given)
    return interval, timeout, start_period, start_interval


def judged(health: Health, result: HealthResult, retries: int, starting: bool) -> Health:
    """The health after one more answer. Failures while it may still be starting don't count."""
    recent = [*health.log, result][-LOGGED:]
    if result.exit_code == 0:
        return Health(status="healthy", failing_streak=0, log=recent)
    if starting and health.status == "starting":
        return msgspec.structs.replace(health, log=recent)
    streak = health.failing_streak + 1
    status = "unhealthy" if streak >= retries else health.status
    return Health(status=status, failing_streak=streak, log=recent)
