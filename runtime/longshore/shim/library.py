"""Our own OCI runtime, as a library in the worker's process."""

from __future__ import annotations

import json

from longshore.linux.cgroup import figures, limits
from longshore.oci import (
    checkpoint,
    create,
    criu,
    delete,
    errors,
    kill,
    pause,
    ps,
    restore,
    resume,
    start,
    state,
    update,
)
from longshore.oci import exec as exec_
from longshore.shim.runtime import Image, Made, RuntimeFailure

# What is otherwise imported by need: workers are forked, and would import it again and again.
PRELOADED = (figures, limits)


class Library:
    """Implements `longshore.shim.runtime.Runtime`."""

    def __init__(self, root: str, *, systemd_cgroup: bool) -> None:
        self._root = root
        self._systemd_cgroup = systemd_cgroup

    def create(self, bundle: str, id: str, *, console: str, no_pivot: bool, no_new_keyring: bool) -> int:
        with Worded("create"):
            return create.create(
                self._root,
                id,
                bundle,
                console_socket=console,
                pid_file=f"{bundle}/init.pid",
                no_pivot=no_pivot,
                no_new_keyring=no_new_keyring,
                systemd_cgroup=self._systemd_cgroup,
            )

    def made(self, id: str, pid: int) -> Made:
        container = state.load(self._root, id)
        hooks = container.config["hooks"]
        simple = not hooks.get("poststart") and not hooks.get("poststop")
        cgroup = container.cgroup
        return Made(cgroup.paths, cgroup.version, container.directory if simple else "")

    def start(self, id: str) -> None:
        with Worded("start"):
            start.start(self._root, id)

    def execute(self, bundle: str, id: str, exec_id: str, process: bytes, *, console: str) -> int:
        with Worded("exec"):
            return exec_.execute(
                self._root,
                id,
                json.loads(process),
                console_socket=console,
                pid_file=f"{bundle}/{exec_id}.pid",
            )

    def kill(self, id: str, signal: int, *, all: bool) -> None:
        with Worded("kill"):
            kill.kill(self._root, id, signal, all=all)

    def delete(self, id: str, *, force: bool) -> None:
        with Worded("delete"):
            delete.delete(self._root, id, force=force)

    def pause(self, id: str) -> None:
        with Worded("pause"):
            pause.pause(self._root, id)

    def resume(self, id: str) -> None:
        with Worded("resume"):
            resume.resume(self._root, id)

    def update(self, id: str, resources: bytes) -> None:
        with Worded("update"):
            update.update(self._root, id, json.loads(resources))

    def pids(self, id: str) -> list[int]:
        with Worded("ps"):
            return ps.pids(self._root, id)

    def checkpoint(self, id: str, image: Image, *, leave_running: bool) -> None:
        with Worded("checkpoint"):
            checkpoint.checkpoint(self._root, id, _criu(image), leave_running=leave_running)

    def restore(self, bundle: str, id: str, image: Image) -> int:
        with Worded("restore"):
            create.check_driver(self._systemd_cgroup)
            return restore.restore(self._root, id, bundle, _criu(image), pid_file=f"{bundle}/init.pid")


def _criu(image: Image) -> criu.Options:
    return criu.Options(
        image.path,
        image.work,
        flags=image.flags,
        cgroups_mode=image.cgroups_mode,
        empty_namespaces=image.empty_namespaces,
    )


# What runc puts before its reason; dockerd's clients see the whole sentence.
_OWN_WORDS = {"create": "runc create failed: ", "exec": "exec failed: "}


class Worded:
    """Clients see the same sentence whichever runtime failed."""

    def __init__(self, verb: str) -> None:
        self._verb = verb

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (errors.RuntimeFailure, OSError, ValueError)):
            own = _OWN_WORDS.get(self._verb, "")
            raise RuntimeFailure(f"OCI runtime {self._verb} failed: {own}{errors.explain(error)}") from None
