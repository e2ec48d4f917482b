"""`longshore demo` stopped half-way, at many moments: it ends, says so, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.daemon import LONGSHORE
from support.process import eventually

# Seconds after the start; together they cover imports, the daemon's start, the import, the container's life.
MOMENTS = (0.3, 0.7, 1.2, 1.8)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_stopped(moment: float, number: int, short_tmp: Path) -> None:
    before = cgroups()
    process = subprocess.Popen(
        [LONGSHORE, "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(short_tmp)},
    )
    time.sleep(moment)  # not to wait for something, but to hit it at different moments
    process.send_signal(number)
    said = process.communicate(timeout=120)[0]
    # Before main() runs, Python's own default applies; after the end there is nothing to interrupt.
    assert process.returncode in (0, 130, -number, 1 if "KeyboardInterrupt" in said else 130), said
    assert "Left behind" not in said
    assert list(short_tmp.glob("ls-demo-*")) == []
    # Another worker's demo may have begun meanwhile; what it made goes with it.
    eventually(lambda: cgroups() <= before)


def cgroups() -> set[str]:
    tops = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    return {str(path) for top in tops if top.is_dir() for path in top.glob("demo-*")}


def test_a_daemon_that_does_not_start_is_explained(tmp_path: Path) -> None:
    """Here: no room for its files."""
    tmp = tmp_path / "full"
    tmp.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp], check=True)
    try:
        done = subprocess.run(
            [LONGSHORE, "demo"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "TMPDIR": str(tmp)},
        )
    finally:
        subprocess.run(["umount", tmp], check=True)
    assert done.returncode == 1
    assert "failed" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
