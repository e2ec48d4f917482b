"""What a newcomer types first: `make run` is `longshore demo`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from support.daemon import LONGSHORE
from support.leaks import RUNTIME_STATE, Watch
from support.process import eventually


def test_main_job(short_tmp: Path) -> None:
    elsewhere = runtime_state()
    environ = os.environ | {"TMPDIR": str(short_tmp)}
    done = subprocess.run(
        [LONGSHORE, "demo"], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Hello from a container" in done.stdout and "Hello from docker" in done.stdout
    assert re.search(r"Namespaces", done.stdout) and re.search(r"What each step cost", done.stdout)
    assert "How to go on" in done.stdout
    Watch([short_tmp]).check()
    assert list(short_tmp.iterdir()) == []
    eventually(lambda: runtime_state() <= elsewhere)


def runtime_state() -> set[str]:
    """Demos' folders where the original's shims keep runc's state: outside of ours, whatever --state says."""
    return {folder.name for folder in RUNTIME_STATE.glob("demo-*")}


def test_main_job_without_root_says_what_is_missing() -> None:
    """In a user namespace that maps nobody: an ordinary user who can still read the project. No traceback."""
    command = ["unshare", "--user", str(LONGSHORE), "demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode > 0
    assert "root" in done.stderr and "Traceback" not in done.stderr
