"""What survives: SIGKILL for the daemon, its zygote and its shims, with Debian's ctr as the witness."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support import ctr, images, soak
from support.daemon import Longshore
from support.events import Watcher
from support.folders import short_folder
from support.process import eventually
from support.subscription import Exit, Subscription

ALL_TASKS = "topic~=|^/tasks/|"


@pytest.fixture
def daemon() -> Iterator[Longshore]:
    with Longshore() as started, short_folder() as folder:
        started.go_ctr("images", "import", images.busybox_archive(folder))
        yield started


def detach(daemon: Longshore, name: str, *command: str) -> None:
    daemon.go_ctr("run", "-d", images.BUSYBOX, name, *(command or ("sleep", "1000")))


def pids(daemon: Longshore) -> dict[str, int]:
    """Container id -> pid of the running tasks."""
    table = ctr.rows(daemon.go_ctr("tasks", "ls").stdout)
    return {row[0]: int(row[1]) for row in table if row[2] == "RUNNING"}


def wait_until_running(daemon: Longshore, count: int) -> None:
    eventually(lambda: len(pids(daemon)) <= count, what=f"at most {count} are still running")


def exec_pid(daemon: Longshore, name: str, exec_id: str) -> int:
    table = ctr.rows(daemon.go_ctr("tasks", "ps", name).stdout)
    return next(int(row[0]) for row in table if exec_id in " ".join(row[1:]))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def test_killed_daemon_comes_back(daemon: Longshore) -> None:
    """20 containers run on with their pids, and each process that ended meanwhile is reported exactly once."""
    names = [f"c{number}" for number in range(20)]
    for name in names:
        detach(daemon, name)
    daemon.go_ctr("tasks", "exec", "-d", "--exec-id", "e1", "c0", "sleep", "1000")
    daemon.go_ctr("tasks", "exec", "-d", "--exec-id", "e2", "c19", "sleep", "1000")
    before = pids(daemon)
    assert set(before) == set(names)
    execs = {("c0", "e1"): exec_pid(daemon, "c0", "e1"), ("c19", "e2"): exec_pid(daemon, "c19", "e2")}
    ending = names[:8]
    with Subscription(daemon.address, [ALL_TASKS]) as before_death:
        head = before_death.sequence
        # Two end just before the daemon does: whether they were heard of is open, that they are once isn't.
        for name in ending[6:]:
            os.kill(before[name], signal.SIGKILL)
        daemon.kill9()
    heard = Counter(before_death.exits())
    for name in ending[:6]:
        os.kill(before[name], signal.SIGKILL)
    os.kill(execs["c19", "e2"], signal.SIGTERM)
    daemon.start()
    with (
        Subscription(daemon.address, [ALL_TASKS]) as again,
        Subscription(daemon.address, [ALL_TASKS], since=head) as replay,
    ):
        expected = {Exit(name, name, 137) for name in ending}
        expected |= {Exit("c0", "e1", 137), Exit("c19", "e2", 143)}
        for events in (again, replay):
            events.until_heard(expected - set(heard))
        # One more exit as a full stop: everything older has arrived by then.
        os.kill(before["c10"], signal.SIGKILL)
        last = Exit("c10", "c10", 137)
        for events in (again, replay):
            events.until_heard([last])
        assert Counter(replay.exits()) == Counter([*expected, last])
        twice = heard + Counter(again.exits()) - Counter([*expected, last])
        # The one that was being sent when the daemon was killed may come again.
        assert twice in [Counter(), *(Counter([Exit(name, name, 137)]) for name in ending[6:])]
        assert set(heard) | set(again.exits()) == {*expected, last}
    survivors = [name for name in names if name not in (*ending, "c10")]
    assert pids(daemon) == {name: before[name] for name in survivors}
    done = daemon.go_ctr(
        "tasks", "exec", "--exec-id", "e3", "c15", "sh", "-c", "echo alive; exit 3", check=False
    )
    assert (done.stdout, done.returncode) == ("alive\n", 3)
    for name in ending:
        done = daemon.go_ctr("tasks", "delete", name, check=False)
        assert "137" in done.stdout + done.stderr or done.returncode == 137


def test_daemon_killed_at_any_moment(daemon: Longshore) -> None:
    """Processes end all the time while the daemon is killed and started: by replay, one exit each."""
    chance = random.Random(7)
    with Subscription(daemon.address, [ALL_TASKS]) as opened:
        head = opened.sequence
    expected = []
    for turn in range(soak.times(2, 50)):
        names = [f"t{turn}-{number}" for number in range(5)]
        for name in names:
            detach(daemon, name, "sh", "-c", f"sleep {chance.uniform(0.3, 1.2):.2f}; exit 7")
        expected += [Exit(name, name, 7) for name in names]
        wait_until_running(daemon, chance.randrange(5))
        daemon.kill9()
        daemon.start()
        with Subscription(daemon.address, [ALL_TASKS], since=head) as replay:
            replay.until_heard(expected)
            assert Counter(replay.exits()) == Counter(expected)
        for name in names:
            daemon.go_ctr("tasks", "delete", name, check=False)
            daemon.go_ctr("containers", "rm", name)


def test_killed_zygote_is_replaced(daemon: Longshore, name: str) -> None:
    detach(daemon, name)
    killed = zygote(daemon.pid)
    os.kill(killed, signal.SIGKILL)
    for turn in range(3):
        done = daemon.go_ctr(
            "run", "--rm", images.BUSYBOX, f"after-{turn}", "sh", "-c", "echo next", check=False
        )
        assert done.stdout == "next\n", done.stderr
    assert zygote(daemon.pid, other_than=killed)
    assert name in pids(daemon)


def zygote(pid: int, other_than: int = 0) -> int:
    """The child of the daemon that forks shims, once it is there."""
    return eventually(
        lambda: next((child for child in zygotes(pid) if child != other_than), 0), what="there is a zygote"
    )


def zygotes(pid: int) -> Iterator[int]:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # threads and children come and go
            for child in (thread / "children").read_text().split():
                if "zygote" in Path(f"/proc/{child}/cmdline").read_text():
                    yield int(child)


def test_zygote_ends_with_its_daemon(daemon: Longshore) -> None:
    left = zygote(daemon.pid)
    daemon.kill9()
    eventually(lambda: not Path(f"/proc/{left}").exists(), what="the zygote is gone")
    daemon.start()


def test_killed_shim_is_one_exit_and_one_delete(daemon: Longshore, name: str) -> None:
    detach(daemon, name)
    detach(daemon, f"{name}-other")
    daemon.go_ctr("tasks", "exec", "-d", "--exec-id", "e1", name, "sleep", "1000")
    task = pids(daemon)[name]
    with Watcher(daemon) as watcher:
        os.kill(parent(task), signal.SIGKILL)
        watcher.until("/tasks/delete", of=name)
        # A later event as a full stop: a second exit would have come before it.
        daemon.go_ctr("run", "--rm", images.BUSYBOX, "stop", "true")
        events = watcher.until("/tasks/delete", of="stop")
    ours = [event for event in events if event.fields.get("container_id") == name]
    exits = [event.fields for event in ours if event.topic == "/tasks/exit"]
    assert Counter((exit["id"], exit["exit_status"]) for exit in exits) == Counter([(name, 137), ("e1", 137)])
    assert [event.topic for event in ours].count("/tasks/delete") == 1
    assert name not in daemon.go_ctr("tasks", "ls").stdout.split()
    mounted = [line for line in daemon.watch.left() if line.startswith("mount")]
    assert not any(f"/{name}/" in line for line in mounted), mounted
    eventually(lambda: not Path(f"/proc/{task}").exists(), what="its processes are gone")
    daemon.go_ctr("containers", "rm", name)
    done = daemon.go_ctr("run", "--rm", images.BUSYBOX, name, "echo", "again")
    assert done.stdout == "again\n"
