"""Short temporary folders: a Unix socket's path has 107 bytes, and pytest's tmp_path may spend 80 of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_folder(prefix: str = "ls-") -> Iterator[Path]:
    """A new folder directly in /tmp, removed at the end; mounts left in it are the leak check's to report."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
