"""delete: remove what is left of a container."""

from __future__ import annotations

import os

from longshore.oci import log, state
from longshore.oci.cli import BOOL
from longshore.oci.errors import HookFailed, NotFound, RuntimeFailure, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from longshore.linux.cgroup.manager import Cgroup
    from longshore.linux.processes import ProcessId
    from longshore.oci.cli import Call
    from longshore.oci.state import State

_PATIENCE = 10.0


def delete(root: str, id: str, *, force: bool = False) -> None:
    """Delete a stopped or created container; ``force``: any, killed first, and a missing one is fine."""
    try:
        container = state.load(root, id)
    except (NotFound, state.Damaged):
        if not force:
            raise
        # One whose create was killed, or a damaged one.
        directory = f"{os.path.abspath(root)}/{id}"
        cgroup = state.noted_cgroup(directory)
        if cgroup is not None:
            _remove_cgroup(cgroup)
        state.remove_directory(directory)
        return
    status = container.require("force delete" if force else "delete")
    if status != state.STOPPED:
        _end(container)
    destroy(container)


def _end(container: State) -> None:
    try:
        pidfd = container.process.open()
    except ProcessLookupError:
        return
    try:
        container.cgroup.kill(9)
        try:
            container.process.send(9)
        except ProcessLookupError:
            pass
        if container.cgroup.frozen():
            container.cgroup.thaw()
        import select

        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_PATIENCE * 1000):
            raise RuntimeFailure("container init still running")
    finally:
        os.close(pidfd)
    _reap(container.process)


def _reap(process: ProcessId) -> None:
    """If it was our child: nobody else would."""
    try:
        os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        pass


def destroy(container: State) -> None:
    """End what is left in the cgroup, remove it, run the poststop hooks, remove the state."""
    _remove_cgroup(container.cgroup)
    _poststop(container)
    state.remove_directory(container.directory)


def _remove_cgroup(cgroup: Cgroup) -> None:
    if not cgroup.exists():
        return
    cgroup.kill(9)
    if cgroup.frozen():
        cgroup.thaw()
    try:
        cgroup.delete(_PATIENCE)
    except OSError as error:
        raise RuntimeFailure(f"unable to remove container's cgroup: {explain(error)}") from None


def _poststop(container: State) -> None:
    configured = container.config["hooks"].get("poststop")
    if not configured:
        return
    from longshore.oci.process import hooks

    # The specification: a failing poststop hook is logged, and the rest goes on.
    for hook in configured:
        try:
            hooks.run("poststop", [hook], container.for_hooks(state.STOPPED))
        except HookFailed as error:
            log.write("warning", explain(error))


FLAGS = {"force f": BOOL}
ARGUMENTS = (1, 1)


def main(call: Call) -> int:
    """``runc delete [--force] ID``"""
    delete(call.root, call.arguments[0], force=call.on("force"))
    return 0
