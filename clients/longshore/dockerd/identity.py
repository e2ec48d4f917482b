"""The daemon's own ID: made once per data root."""

from __future__ import annotations

import uuid
from functools import cache
from pathlib import Path


@cache
def of(data_root: str) -> str:
    path = Path(data_root) / "engine-id"
    try:
        return path.read_text().strip() or _make(path)
    except FileNotFoundError:
        return _make(path)


def _make(path: Path) -> str:
    made = str(uuid.uuid4())
    path.write_text(made)
    return made
