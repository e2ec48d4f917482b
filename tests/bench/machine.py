"""On what a run ran: the machine, and the version of everything that took part."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.measure import CGROUPS
from support import goparts

ASKED: Mapping[str, tuple[str, ...]] = {
    "containerd": ("--version",),
    "runc": ("--version",),
    "crun": ("--version",),
    "dockerd": ("--version",),
    "docker": ("--version",),
    "h2load": ("--version",),
}


def describe() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "processor": processor(),
        "processors": os.cpu_count(),
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30),
        "kernel": platform.release(),
        "cgroup": cgroup(),
        "filesystem": f"{filesystem('/tmp')} below /tmp",
        "load_before": os.getloadavg(),
        "load_after": os.getloadavg(),
        "versions": versions(),
    }


def processor() -> str:
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return names[0].strip() if names else platform.machine()


def cgroup() -> str:
    if (CGROUPS / "cgroup.controllers").exists():
        return "v2"
    return "v1 with v2 beside it" if (CGROUPS / "unified").is_dir() else "v1"


def filesystem(path: str) -> str:
    done = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True)
    return done.stdout.strip().replace("ext2/ext3", "ext4")


def versions() -> dict[str, str]:
    """By program; a part that can't be had is left out."""
    found = {"Longshore": commit(), "Python": platform.python_version()}
    for name, words in ASKED.items():
        try:
            answer = subprocess.run([goparts.path(name), *words], capture_output=True, text=True, check=True)
        except (goparts.Missing, OSError, subprocess.CalledProcessError):
            continue
        found[name] = first_version(answer.stdout)
    return found


def first_version(text: str) -> str:
    """1.2.3 out of whatever a program says of itself, with Debian's suffix."""
    match = re.search(r"\d+\.\d+(?:\.\d+)?(?:[~+][\w.~+-]+)?", text)
    return match[0] if match else "?"


def commit() -> str:
    done = subprocess.run(
        ["git", "-C", goparts.PROJECT, "log", "-1", "--format=%h"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "of no commit"
