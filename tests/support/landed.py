"""The last landed version as a wheel, unpacked into the project's cache: what an upgrade starts from.

Built from this repository's history, so it needs the commit (a shallow clone
doesn't have it) and hatchling, which the virtualenv has.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from support.goparts import PROJECT

COMMIT = "911652dade7d"
"""Move it with every landing that changes what is on disk or what goes over a socket between our own parts."""


class Missing(Exception):
    """Why there is no such wheel here."""


def program() -> tuple[list[str], dict[str, str]]:
    """Command line of the landed `longshore`, and what its environment must have. Raises Missing."""
    site = PROJECT / ".cache/landed" / COMMIT
    site.parent.mkdir(parents=True, exist_ok=True)
    with open(site.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not site.exists():
            _build(site)
    return [sys.executable, "-m", "longshore.launcher"], {"PYTHONPATH": str(site)}


def _build(site: Path) -> None:
    """Unpack the commit, make its wheel, install that: whole or not at all."""
    known = subprocess.run(
        ["git", "-C", PROJECT, "cat-file", "-e", f"{COMMIT}^{{commit}}"], capture_output=True, check=False
    )
    if known.returncode:
        raise Missing(f"commit {COMMIT} is not in this clone")
    with tempfile.TemporaryDirectory(prefix="landed-", dir=site.parent) as name:
        folder = Path(name)
        (folder / "source").mkdir()
        archive = subprocess.run(["git", "-C", PROJECT, "archive", COMMIT], capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", folder / "source"], input=archive.stdout, check=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", name, f"{name}/source"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.run(wheel, check=True, env={**os.environ, "PATH": path}, stdout=subprocess.DEVNULL)
        (built,) = folder.glob("*.whl")
        subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", built], check=True)
        shutil.move(folder / "site", site)
