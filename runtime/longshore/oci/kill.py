"""kill: a signal for init, or for every process of the container."""

from __future__ import annotations

from longshore.oci import state
from longshore.oci.cli import BOOL
from longshore.oci.errors import NotRunning
from longshore.oci.signals import parse_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from longshore.oci.cli import Call

_SIGKILL = 9


def kill(root: str, id: str, signal: int, *, all: bool = False) -> None:
    """Send ``signal``. NotRunning if init has ended (with ``all`` the rest is signalled all the same)."""
    container = state.load(root, id)
    if all and container.cgroup_paths:
        container.cgroup.kill(signal)
        if signal == _SIGKILL and container.cgroup.frozen():
            container.cgroup.thaw()
        return
    status = container.require("kill")
    private = "pid" in container.config["namespaces"]
    try:
        if signal == _SIGKILL and not private:
            # Nothing ends with init then, so that we end it all.
            container.cgroup.kill(signal)
        container.process.send(signal)
    except ProcessLookupError:
        if signal != _SIGKILL or private:
            raise NotRunning() from None
    if signal == _SIGKILL and status == state.PAUSED:
        # v1's freezer holds even killed processes.
        container.cgroup.thaw()


FLAGS = {"all a": BOOL}
ARGUMENTS = (1, 2)


def main(call: Call) -> int:
    """``runc kill [--all] ID [SIGNAL]`` (a number or a name, SIGTERM if none is given)"""
    word = call.arguments[1] if len(call.arguments) > 1 else "SIGTERM"
    kill(call.root, call.arguments[0], parse_signal(word), all=call.on("all"))
    return 0
