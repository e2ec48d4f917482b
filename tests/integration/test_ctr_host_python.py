"""The host's Python, packed with its packages, runs in a container as it does outside."""

from __future__ import annotations

import venv
from pathlib import Path

from longshore.ctr.hostimage import build
from support.daemon import Longshore


def test_it_runs_in_a_container(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (packages / "ours.py").write_text("ANSWER = 42\n")
    with open(tmp_path / "archive", "wb") as archive:
        built = build((), "host/python", archive, python=str(tmp_path / "env" / "bin" / "python3"))
    with Longshore() as daemon:
        daemon.ctr("images", "import", tmp_path / "archive")
        program = "import ours, ctypes, ssl, sqlite3, hashlib, sys; print(ours.ANSWER, sys.prefix)"
        done = daemon.ctr("run", "--rm", built.name, "c1", "python3", "-c", program)
        assert done.stdout == f"42 {tmp_path / 'env'}\n"
        daemon.ctr("images", "rm", "--sync", built.name)
