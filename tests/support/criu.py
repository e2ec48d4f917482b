"""A stand-in for criu: it writes down how it was called, ends the processes it "dumps" and starts one it "restores".

Executed as a program: ``python criu.py [dump|pre-dump|restore] ...``; `install`
writes a launcher that a runtime finds as ``criu``.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

RECORD = "criu-calls.json"


def install(folder: Path) -> Path:
    """A ``criu`` in ``folder``; its calls are added to ``folder/criu-calls.json``."""
    program = folder / "criu"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = {sys.path!r}\n"
        f"from support import criu\ncriu.main({str(folder)!r})\n"
    )
    program.chmod(0o755)
    return program


def calls(folder: Path) -> list[dict[str, Any]]:
    """What was recorded, oldest first: ``verb``, ``words``, ``fds``, ``mounted`` (is --root a mount?)."""
    return [json.loads(line) for line in (folder / RECORD).read_text().splitlines()]


def main(folder: str) -> None:
    verb, *words = sys.argv[1:]
    opened = [(fd, f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    fds = {fd: os.readlink(path) for fd, path in opened if os.path.lexists(path)}
    root = value(words, "--root")
    record = {
        "verb": verb,
        "words": words,
        "fds": fds,
        "mounted": f" {root} " in Path("/proc/self/mountinfo").read_text(),
    }
    with open(f"{folder}/{RECORD}", "a") as file:
        file.write(json.dumps(record) + "\n")
    if os.path.exists(f"{folder}/fail"):
        with open(f"{value(words, '--work-dir')}/{value(words, '--log-file')}", "w") as log:
            log.write("(00.1) something\n(00.2) Error (criu/x.c:1): as told by the test\n")
        sys.exit(1)
    if verb == "restore":
        _restore(words)
        return
    Path(value(words, "--images-dir"), "inventory.img").write_bytes(b"image")
    if verb == "dump" and "--leave-running" not in words:
        os.kill(int(value(words, "--tree")), 9)


def value(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def values(words: list[str], flag: str) -> list[str]:
    return [word for before, word in itertools.pairwise(words) if before == flag]


def _restore(words: list[str]) -> None:
    """One process, as a sibling of ours, in the cgroups asked for, that prints to the pipe it inherited."""
    from longshore.linux import namespaces

    read, write = os.pipe()
    pid, _ = namespaces.clone(namespaces.CLONE_PARENT, exit_signal=0)
    if pid == 0:
        os.read(read, 1)
        for entry in values(words, "--inherit-fd"):
            fd, _, name = entry.removeprefix("fd[").partition("]:")
            if name.startswith("pipe:"):
                os.dup2(int(fd), 1)
        os.closerange(3, 100)
        os.execv("/bin/sh", ["sh", "-c", "echo restored; exec sleep 1000"])
    for entry in values(words, "--cgroup-root"):
        name, _, path = entry.rpartition(":")
        Path(
            "/sys/fs/cgroup", name.removeprefix("name=") or "unified", path.lstrip("/"), "cgroup.procs"
        ).write_text(str(pid))
    Path(value(words, "--pidfile")).write_text(str(pid))
    os.write(write, b"0")
