"""Thirty of Debian's `ctr run --rm` at once: every exit status right, every line there, nothing left."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support import images, soak
from support.daemon import Longshore

AT_ONCE = 30


def test_storm(tmp_path: Path) -> None:
    with Longshore() as daemon:
        daemon.go_ctr("images", "import", images.busybox_archive(tmp_path))
        for turn in range(soak.times(1, 10)):
            started = {
                number: daemon.popen(
                    *(
                        "run",
                        "--rm",
                        images.BUSYBOX,
                        f"s{turn}-{number}",
                        "sh",
                        "-c",
                        f"echo {number}; exit {number}",
                    ),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                for number in range(AT_ONCE)
            }
            said = {number: process.communicate(timeout=120) for number, process in started.items()}
            answers = {number: (said[number][0], started[number].returncode) for number in started}
            assert answers == {number: (b"%d\n" % number, number) for number in started}, said
            for noun in ("tasks", "containers"):
                assert daemon.go_ctr(noun, "ls", "-q").stdout == ""
