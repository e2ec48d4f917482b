"""Each part swapped for its original: run, exec and kill across every seam below containerd's socket."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from support import ctr, goparts, images, require, soak
from support.daemon import LONGSHORE, Longshore
from support.events import Event, Watcher
from support.folders import short_folder
from support.host import PrivateHost
from support.process import eventually
from support.realdaemon import RealContainerd
from support.terminal import Terminal

Daemon = RealContainerd | Longshore
AT_ONCE = soak.times(3, 50)
ASK = "read x; tty; echo got $x; exit 5"


class Combination(NamedTuple):
    """Which daemon, the flags of `ctr run` that pick shim and runtime, what its private host must lack, and
    programs that come first on the daemon's PATH.
    """

    daemon: str
    flags: Callable[[Path], tuple[str | Path, ...]]
    scripts: tuple[str, ...] = ()
    programs: tuple[tuple[str, Path], ...] = ()
    go_runtimes: bool = False


OUR_SHIM = LONGSHORE.with_name("containerd-shim-longshore-v1")


def our_runc(folder: Path) -> Path:
    """Our OCI runtime under the name that the original has."""
    link = folder / "runc"
    link.symlink_to(LONGSHORE)
    return link


COMBINATIONS = {
    "original": Combination("real", lambda _: ()),
    "our-runc": Combination("real", lambda folder: ("--runc-binary", our_runc(folder))),
    "our-shim": Combination("real", lambda _: ("--runtime", "io.containerd.longshore.v1")),
    # Taken for Go's shim, ours is given Go's options too.
    "our-shim-by-gos-name": Combination(
        "real", lambda _: (), programs=(("containerd-shim-runc-v2", OUR_SHIM),)
    ),
    "our-shim-gos-runc": Combination(
        "real",
        lambda _: ("--runc-binary", goparts.path("runc")),
        programs=(("containerd-shim-runc-v2", OUR_SHIM),),
    ),
    "all-ours": Combination("longshore", lambda _: ()),
    "all-ours-by-name": Combination("longshore", lambda _: ("--runtime", "io.containerd.longshore.v1")),
    "gos-shim": Combination(
        "longshore", lambda _: ("--runtime", goparts.path("containerd-shim-runc-v2")), go_runtimes=True
    ),
    "gos-runc": Combination("longshore", lambda _: ("--runc-binary", goparts.path("runc")), go_runtimes=True),
    # crun 1.8 takes a cgroup layout with a v2 tree beside v1 controllers for neither of the two.
    "crun": Combination(
        "longshore",
        lambda _: ("--runc-binary", goparts.path("crun")),
        ("umount /sys/fs/cgroup/unified",),
        go_runtimes=True,
    ),
}


class Stack(NamedTuple):
    daemon: Daemon
    flags: tuple[str, ...]

    def run(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        return self.daemon.go_ctr("run", "--rm", *self.flags, images.BUSYBOX, name, *command, check=False)

    def detach(self, name: str, *command: str) -> None:
        self.daemon.go_ctr("run", "-d", *self.flags, images.BUSYBOX, name, *command)

    def terminal(self, *words: str) -> list[str]:
        """The command line of a ctr call, for a terminal."""
        if isinstance(self.daemon, RealContainerd):
            return self.daemon.host.inside(self.daemon.command(words))
        return self.daemon.command([goparts.path("ctr")], words)

    def popen(self, *words: str) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return self.daemon.popen(*words, **pipes)

    def remove(self, name: str) -> None:
        self.daemon.go_ctr("tasks", "rm", "-f", name, check=False)
        self.daemon.go_ctr("containers", "rm", name, check=False)


@pytest.fixture(scope="module", params=COMBINATIONS)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    require.root()
    require.go("containerd", "ctr", "runc", "crun", "containerd-shim-runc-v2", "busybox")
    chosen = COMBINATIONS[request.param]
    with ExitStack() as opened:
        folder = opened.enter_context(short_folder())
        daemon: Daemon
        if chosen.daemon == "real":
            daemon = opened.enter_context(
                RealContainerd(scripts=chosen.scripts, programs=dict(chosen.programs))
            )
        else:
            inside = opened.enter_context(PrivateHost(*chosen.scripts))
            daemon = opened.enter_context(Longshore(inside=inside, go_runtimes=chosen.go_runtimes))
        daemon.go_ctr("images", "import", images.busybox_archive(folder))
        yield Stack(daemon, tuple(map(str, chosen.flags(folder))))


def test_run(stack: Stack, name: str) -> None:
    done = stack.run(name, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert name not in stack.daemon.go_ctr("containers", "ls", "-q").stdout


def test_exec(stack: Stack, name: str) -> None:
    stack.detach(name, "sleep", "1000")
    try:
        script = "cat; hostname; exit 5"
        done = stack.daemon.go_ctr(
            *("tasks", "exec", "--exec-id", "e1", name, "sh", "-c", script), input="in\n", check=False
        )
        assert done.stdout.startswith("in\n") and done.returncode == 5, done.stderr
    finally:
        stack.remove(name)


def test_kill(stack: Stack, name: str) -> None:
    with Watcher(stack.daemon) as watcher:
        stack.detach(name, "sleep", "1000")
        try:
            stack.daemon.go_ctr("tasks", "kill", "-s", "KILL", name)
            events = watcher.until("/tasks/exit", of=name)
            assert [event.fields["exit_status"] for event in chosen(events, "/tasks/exit", name)] == [137]
            table = eventually(lambda: stack.daemon.go_ctr("tasks", "ls").stdout)
            assert [row[2] for row in ctr.rows(table) if row[0] == name] == ["STOPPED"]
        finally:
            stack.remove(name)
        events = watcher.until("/tasks/delete", of=name)
    assert [event.fields["exit_status"] for event in chosen(events, "/tasks/delete", name)] == [137]


def chosen(events: list[Event], topic: str, name: str) -> list[Event]:
    return [event for event in events if event.topic == topic and event.names(name)]


def test_pause_and_figures(stack: Stack, name: str) -> None:
    """Nothing runs while it is paused, and nothing starts in it; processes and figures are those of its cgroup."""
    call = stack.daemon.go_ctr
    stack.detach(name, "sleep", "1000")
    try:
        call("tasks", "pause", name)
        assert [row[2] for row in ctr.rows(call("tasks", "ls").stdout) if row[0] == name] == ["PAUSED"]
        refused = call("tasks", "exec", "--exec-id", "e1", name, "true", check=False)
        assert refused.returncode != 0 and "cannot exec in a paused state" in refused.stderr
        call("tasks", "resume", name)
        assert len(ctr.rows(call("tasks", "ps", name).stdout)) == 1
        figures = dict(row[:2] for row in ctr.rows(call("tasks", "metrics", name).stdout) if len(row) == 2)
        assert int(figures["memory.usage_in_bytes"]) > 0 and figures["pids.current"] == "1"
    finally:
        stack.remove(name)


def test_terminal(stack: Stack, name: str) -> None:
    opened = Terminal(
        stack.terminal("run", "--rm", "-t", *stack.flags, images.BUSYBOX, name, "sh", "-c", ASK), {}
    )
    assert answered(opened, r"/dev/pts/0\r") == 5
    stack.detach(name, "sleep", "1000")
    try:
        opened = Terminal(stack.terminal("tasks", "exec", "-t", "--exec-id", "e1", name, "sh", "-c", ASK), {})
        assert answered(opened, r"/dev/pts/\d+\r") == 5
    finally:
        stack.remove(name)


def answered(opened: Terminal, expected: str) -> int:
    try:
        opened.type("word\n")
        opened.until(expected)
        opened.until("got word")
    finally:
        ended = opened.end()
    return ended


def test_some_at_once(stack: Stack, name: str) -> None:
    started = [
        stack.popen(
            *("run", "--rm", *stack.flags, images.BUSYBOX, f"{name}-{number}", "sh", "-c"),
            f"echo {number}; exit {number}",
        )
        for number in range(AT_ONCE)
    ]
    said = [process.communicate(timeout=60) for process in started]
    answers = [(out, process.returncode) for (out, _), process in zip(said, started, strict=True)]
    assert answers == [(b"%d\n" % number, number) for number in range(AT_ONCE)], said


def test_missing_program(stack: Stack, name: str) -> None:
    done = stack.run(name, "no-such-program")
    assert done.returncode != 0 and "no-such-program" in done.stderr
    assert name not in stack.daemon.go_ctr("containers", "ls", "-q").stdout


def test_our_shim_is_on_the_path() -> None:
    """io.containerd.longshore.v1 is a script of the installed package, found as every shim is found."""
    assert OUR_SHIM.exists()
