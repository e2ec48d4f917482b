"""What people hear when the operating system refuses: one translation for content, snapshots and diffs."""

from __future__ import annotations

import errno
from typing import Final

from longshore.api import errors

FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def words(error: OSError) -> str:
    """ "path: text", without the number."""
    where = f"{error.filename}: " if error.filename else ""
    text = error.strerror or str(error)
    return f"{where}{text[:1].lower()}{text[1:]}"


def meaning(error: OSError, deed: str) -> errors.Error:
    """ "deed: text"; ResourceExhausted for a full disk, Unknown for the rest."""
    text = (error.strerror or str(error)).lower()
    kind = errors.ResourceExhausted if error.errno in FULL else errors.Error
    return kind(f"{deed}: {text}")
