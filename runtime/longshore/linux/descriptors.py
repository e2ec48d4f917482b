"""How many files a daemon may have open.

It may have as many as its hard limit says; the soft one, 1024 for most shells,
is an offer to programs that use select(2). What a daemon starts gets the limit
that it was started with itself: containers inherit it, and there are programs
that close every descriptor up to it one by one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

_given = 0  # what our own soft limit was before we raised it


def raise_limit() -> int:
    """Raise the soft limit of this process to the hard one; the limit."""
    global _given
    from resource import RLIMIT_NOFILE, getrlimit, setrlimit

    soft, hard = getrlimit(RLIMIT_NOFILE)
    if soft != hard:
        _given = _given or soft
        setrlimit(RLIMIT_NOFILE, (hard, hard))
    return hard


def as_given(command: Sequence[str]) -> list[str]:
    """`command`, made to run with the limit that we were given. The first word is a path.

    By a shell, because a process with threads runs no Python between fork and
    exec. What can't be executed stays as it is, and fails as it would have.
    """
    if not _given or not os.access(command[0], os.X_OK):
        return list(command)
    return ["/bin/sh", "-c", f'ulimit -Sn {_given} && exec "$0" "$@"', *command]
