"""The native launcher: containers' processes are sealed by it, with one start of the interpreter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore import link
from longshore.linux import seal
from longshore.oci import native
from support import require
from support.bundles import BASE_PYTHON, Bundle, bundle

READ_ONLY = 1  # ST_RDONLY


@pytest.fixture
def box(our_runc: list[str | Path], tmp_path: Path) -> Iterator[Bundle]:
    launcher = tmp_path / "runc"
    python, arguments = link.native_launcher(str(our_runc[-1]), BASE_PYTHON)
    if not native.build(str(launcher), python, arguments, "mark"):
        require.lacking("there is no C compiler")
    with bundle([launcher]) as made:
        yield made


def test_it_seals_with_one_start(box: Bundle) -> None:
    pid = box.create("while :; do sleep 1000; done")
    assert os.statvfs(f"/proc/{pid}/exe").f_flag & READ_ONLY
    assert os.path.samefile(f"/proc/{pid}/exe", BASE_PYTHON)
    # Who seals from inside leaves its mark in the environment of the second start.
    assert seal._MARK.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    box.do("start", "c")
    assert box.do("exec", "c", "echo", "a b", "c") == "a b c\n"
    box.do("kill", "c", "KILL")


def test_streams_statuses_and_descriptors_pass(box: Bundle) -> None:
    box.shell("cat; exit 7")
    done = box.call("run", "c", text="through")
    assert (done.stdout, done.returncode) == ("through", 7)
    assert box.run("ls /proc/self/fd | wc -l").stdout == "4\n"


def test_where_it_may_not_the_runtime_seals_itself(box: Bundle) -> None:
    if not shutil.which("setpriv"):
        require.lacking("there is no setpriv")
    box.runtime = ["setpriv", "--bounding-set", "-sys_admin", *box.runtime]
    done = box.call("run", "--bundle", "nowhere", "c")
    assert "nowhere: no such file or directory" in done.stderr


def test_without_a_compiler_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not native.build(str(tmp_path / "runc"), BASE_PYTHON, ["-c", "pass"], "mark")
    assert not list(tmp_path.iterdir())
