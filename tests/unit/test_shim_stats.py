"""Figures of a container, from cgroup directories of paper; and the v2 counter of out-of-memory kills."""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore.api.cgroups.v1 import metrics_pb2 as v1
from longshore.api.cgroups.v2 import metrics_pb2 as v2
from longshore.api.errors import NotFound
from longshore.shim import oom, stats


def tree(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """Controller -> directory, with `files` ("controller/name": contents) in them."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return {child.name: str(child) for child in folder.iterdir()}


def test_v1(tmp_path: Path) -> None:
    paths = tree(
        tmp_path,
        {
            "pids/pids.current": "3\n",
            "pids/pids.max": "max\n",
            "cpuacct/cpuacct.usage": "5000\n",
            "cpuacct/cpuacct.usage_percpu": "2000 3000\n",
            "cpuacct/cpuacct.stat": "user 2\nsystem 1\n",
            "cpu/cpu.stat": "nr_periods 7\nnr_throttled 2\nthrottled_time 900\n",
            "memory/memory.stat": "cache 10\nrss 20\ntotal_rss 21\nhierarchical_memory_limit 99\n",
            "memory/memory.usage_in_bytes": "30\n",
            "memory/memory.limit_in_bytes": "99\n",
            "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
        },
    )
    name, data = stats.metrics(paths, 1)
    assert name == "io.containerd.cgroups.v1.Metrics"
    metrics = v1.Metrics.FromString(data)
    assert (metrics.pids.current, metrics.pids.limit) == (3, 0)
    assert metrics.cpu.usage.total == 5000 and list(metrics.cpu.usage.per_cpu) == [2000, 3000]
    assert (metrics.cpu.throttling.periods, metrics.cpu.throttling.throttled_time) == (7, 900)
    assert (metrics.memory.cache, metrics.memory.rss, metrics.memory.total_rss) == (10, 20, 21)
    assert (metrics.memory.usage.usage, metrics.memory.usage.limit) == (30, 99)
    assert metrics.memory.hierarchical_memory_limit == 99
    assert metrics.memory_oom_control.oom_kill == 4


def test_v2(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            "c/pids.current": "3\n",
            "c/pids.max": "10\n",
            "c/cpu.stat": "usage_usec 50\nuser_usec 30\nsystem_usec 20\nnew_in_some_kernel 1\n",
            "c/memory.stat": "anon 100\nfile 200\nsome_new_name 3\n",
            "c/memory.current": "400\n",
            "c/memory.max": "1000\n",
            "c/memory.swap.current": "7\n",
            "c/memory.swap.max": "50\n",
            "c/memory.events": "low 0\nhigh 0\nmax 5\noom 2\noom_kill 1\n",
        },
    )
    name, data = stats.metrics({"": str(tmp_path / "c")}, 2)
    assert name == "io.containerd.cgroups.v2.Metrics"
    metrics = v2.Metrics.FromString(data)
    assert (metrics.pids.current, metrics.pids.limit) == (3, 10)
    assert (metrics.cpu.usage_usec, metrics.cpu.system_usec) == (50, 20)
    assert (metrics.memory.anon, metrics.memory.file) == (100, 200)
    assert (metrics.memory.usage, metrics.memory.usage_limit) == (400, 1000)
    assert (metrics.memory.swap_usage, metrics.memory.swap_limit) == (7, 50)
    assert (metrics.memory_events.oom, metrics.memory_events.oom_kill) == (2, 1)


@pytest.mark.parametrize("paths", [{}, {"memory": "/nonexistent/cgroup"}])
def test_a_removed_cgroup_is_not_found(paths: dict[str, str]) -> None:
    with pytest.raises(NotFound, match="cgroup does not exist"):
        stats.metrics(paths, 1)


def test_oom_kills() -> None:
    assert oom.oom_kills(b"low 0\noom 3\noom_kill 2\noom_group_kill 1\n") == 2
    assert oom.oom_kills(b"") == 0
