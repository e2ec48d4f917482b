"""docker-init: exit codes, signals, orphans; in a root where nothing else is."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from longshore.init import native
from longshore.link import MARK
from support import goparts

pytestmark = pytest.mark.skipif(not native.build(), reason="no C compiler, or no static C library")
INIT = str(native.BINARY)


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([INIT, *words], capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("--", "sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -9 $$"), 137),
        (("-e", "143", "-e", "3", "sh", "-c", "kill -TERM $$"), 0),
        (("nosuchprogram",), 127),
        (("/etc/passwd",), 126),
        (("-e", "256", "true"), 1),
        (("-p", "SIGNOT", "true"), 1),
        (("-x",), 1),
        ((), 1),
        (("--version",), 0),
        (("-h",), 0),
    ],
)
def test_exit_codes(words: tuple[str, ...], status: int) -> None:
    assert (
        run("-s", *words).returncode == status
        if words and words[0] != "--version"
        else run(*words).returncode == status
    )


def test_the_version_is_one_that_dockerd_understands() -> None:
    assert run("--version").stdout == "tini version 0.19.0 - git.longshore\n"


def test_link_knows_it_as_its_own() -> None:
    assert MARK.encode() in native.BINARY.read_bytes()


@pytest.mark.parametrize(("flags", "expected"), [([], "outer\n"), (["-g"], "inner\nouter\n")])
def test_signals_reach_the_child_or_its_group(flags: list[str], expected: str) -> None:
    script = (
        "(trap 'echo inner; exit 0' USR1; echo ready >&2; while :; do sleep 0.05; done) & "
        "trap 'wait $!; echo outer; exit 0' USR1; trap 'exit' TERM; "
        "echo ready >&2; wait"
    )
    if not flags:
        script = (
            "trap 'echo outer; exit 0' USR1; echo ready >&2; echo ready >&2; while :; do sleep 0.05; done"
        )
    with subprocess.Popen(
        [INIT, "-s", *flags, "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert [process.stderr.readline() for _ in range(2)] == ["ready\n", "ready\n"]
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == expected
        assert process.wait(60) == 0


def test_orphans_are_reaped_in_an_empty_root(tmp_path: Path) -> None:
    """As PID 1 of a new PID namespace whose root holds only this and busybox."""
    shutil.copy(INIT, tmp_path / "init")
    shutil.copy(goparts.path("busybox"), tmp_path / "busybox")
    (tmp_path / "proc").mkdir()
    # The inner shell leaves an orphan that ends; then nobody may be a zombie.
    script = (
        "/busybox mount -t proc proc /proc; /busybox sh -c '/busybox true & exec /busybox true'; "
        "/busybox sleep 0.1; i=0; "
        "while /busybox grep -q '^State:.Z' /proc/[0-9]*/status 2>/dev/null && [ $i -lt 1000 ]; "
        "do /busybox sleep 0.05; i=$((i+1)); done; [ $i -lt 1000 ] && echo clean"
    )
    words = ["unshare", "-m", "-p", "-f", "--propagation", "private", "chroot", str(tmp_path)]
    done = subprocess.run(
        [*words, "/init", "-w", "--", "/busybox", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "clean\n", done.stderr


def test_the_command_becomes_it() -> None:
    words = [sys.executable, "-c", "import sys; from longshore.init.main import main; sys.exit(main())"]
    done = subprocess.run([*words, "-s", "sh", "-c", "exit 9"], timeout=120, check=False)
    assert done.returncode == 9


def test_its_parents_end_is_told() -> None:
    script = f"{INIT} -s -p SIGTERM sh -c 'echo up; exec sleep 60' & wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.kill()
        # End of file comes when init and its child, which hold the pipe, are gone.
        assert process.stdout.read() == ""
