"""Compile docker-init, and find the one to use: ours, else one that is installed.

The build hook compiles it into the package where it finds a compiler, so wheels
have it. It is static, or not at all: a container has no libraries to offer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "init.c"
BINARY = HERE / "docker-init"
INSTALLED = ("docker-init", "tini-static", "tini", "catatonit")
_SECONDS = 60


class Missing(Exception):
    """There is no docker-init, and what can be done about it."""


def build(target: Path = BINARY) -> bool:
    """Compile a static docker-init, unless `target` is newer than its source; False where that can't be done."""
    if target.exists() and target.stat().st_mtime_ns >= SOURCE.stat().st_mtime_ns:
        return True
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return False
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    words = [
        compiler,
        "-std=gnu11",
        "-Os",
        "-Wall",
        "-Wextra",
        "-static",
        "-s",
        "-o",
        str(draft),
        str(SOURCE),
    ]
    try:
        subprocess.run(words, check=True, capture_output=True, timeout=_SECONDS)
        os.replace(draft, target)
    except (OSError, subprocess.SubprocessError):
        draft.unlink(missing_ok=True)
        return False
    return True


def path() -> str:
    """Of the program to give to containers; built now if need be. Raises Missing."""
    if build():
        return str(BINARY)
    for name in INSTALLED:
        if found := shutil.which(name):
            return os.path.realpath(found)
    raise Missing(
        "no docker-init: it is compiled when longshore is installed and a C compiler with a static C library is "
        f"there; else install one of {', '.join(INSTALLED)}, or name one with --init-path"
    )
