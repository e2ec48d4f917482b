"""run: create and start at once, and (unless detached) stay until the container ends."""

from __future__ import annotations

import os

from longshore.linux import processes
from longshore.oci import config as configuration
from longshore.oci import create, delete, start, state
from longshore.oci.cli import BOOL, VALUE
from longshore.oci.create import Launch, Undo, write_pid_file
from longshore.oci.errors import NotFound, RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from longshore.oci import terminal
    from longshore.oci.cli import Call

FLAGS = {
    "bundle b": VALUE,
    "console-socket": VALUE,
    "detach d": BOOL,
    "keep": BOOL,
    "pid-file": VALUE,
    "no-subreaper": BOOL,
    "no-pivot": BOOL,
    "no-new-keyring": BOOL,
    "preserve-fds": VALUE,
}
ARGUMENTS = (1, 1)


def main(call: Call) -> int:
    """``runc run [--detach] [--keep] [create's options] ID``; the exit status is the container's"""
    container_id = call.arguments[0]
    state.validate_id(container_id)
    create.check_driver(call.systemd_cgroup)
    detach = call.on("detach")
    bundle = os.path.abspath(call.value("bundle", "."))
    launch = Launch(call.root, container_id, bundle, configuration.load(bundle))
    launch.console_socket = call.value("console-socket")
    launch.no_pivot = call.on("no-pivot")
    launch.new_keyring = not call.on("no-new-keyring")
    launch.preserve_fds = call.number("preserve-fds")
    if launch.console_socket and not detach:
        raise RuntimeFailure("cannot use console socket if runc will not detach or allocate tty")
    if not detach and not call.on("no-subreaper"):
        processes.set_child_subreaper()
    if detach or not launch.config["process"].get("terminal"):
        return _run(call, launch, detach)
    from longshore.oci import terminal as terminals

    with terminals.Relay() as relay:
        launch.console_fd = relay.connection
        return _run(call, launch, detach, relay)


def _run(call: Call, launch: Launch, detach: bool, relay: terminal.Relay | None = None) -> int:
    from longshore.oci import foreground

    companion = None if detach else foreground.Companion()
    with launch, Undo() as undo:
        pid = launch.run(undo)
        if call.value("pid-file"):
            write_pid_file(call.value("pid-file"), pid)
    try:
        start.start(launch.root, launch.id)
    except BaseException:
        delete.delete(launch.root, launch.id, force=True)
        raise
    if detach:
        return 0
    assert companion is not None
    try:
        return companion.wait(pid, relay)
    finally:
        if not call.on("keep"):
            try:
                delete.delete(launch.root, launch.id, force=True)
            except NotFound:
                pass
