"""start: let a created container's init execute the user's program."""

from __future__ import annotations

import os

from longshore.oci import log, state
from longshore.oci.errors import HookFailed, StartFailed, WrongState, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from longshore.oci.cli import Call
    from longshore.oci.state import State

_ENXIO = 6


def start(root: str, id: str) -> None:
    """Start a created container; returns when its program runs (or has ended already).

    Raises WrongState ("cannot start ..."), and StartFailed when a startContainer
    hook failed. A program that the kernel refuses says so on its own standard
    error and ends with status 1, as under runc.
    """
    container = state.load(root, id)
    container.require("start")
    report = let_go(container.directory)
    try:
        os.set_blocking(report, True)
        failure = _wait(report)
    finally:
        os.close(report)
    if failure:
        raise StartFailed(failure)
    after(container)


def let_go(directory: str) -> int:
    """Release the init that waits in a state directory; a non-blocking FIFO, where it says why it failed.

    End of file there means that it has executed, or ended. Raises WrongState.
    """
    try:
        report = os.open(f"{directory}/{state.REPORT_FIFO}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise WrongState("cannot start an already running container") from None
    try:
        _write_byte(f"{directory}/{state.START_FIFO}")
    except BaseException:
        os.close(report)
        raise
    return report


def forget_fifo(directory: str) -> None:
    """Remove the FIFO of `let_go`, whose end has been seen."""
    try:
        os.unlink(f"{directory}/{state.REPORT_FIFO}")
    except FileNotFoundError:
        pass


def _write_byte(path: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == _ENXIO:
            raise WrongState("cannot start a container that has stopped") from None
        raise WrongState("cannot start an already running container") from None
    try:
        # Whoever removes the FIFO has the right to write to it: two starts at once are one.
        os.unlink(path)
        os.write(fd, b"0")
    except FileNotFoundError:
        raise WrongState("cannot start an already running container") from None
    finally:
        os.close(fd)


def _wait(report: int) -> str:
    """Until init has executed (its end of the FIFO closes) or says why not."""
    parts = []
    while part := os.read(report, 4096):
        parts.append(part)
    return b"".join(parts).decode(errors="surrogateescape")


def after(container: State) -> None:
    """What is to be done when the program runs: poststart hooks. HookFailed if one does."""
    forget_fifo(container.directory)
    configured = container.config["hooks"].get("poststart")
    if not configured:
        return
    from longshore.oci.process import hooks

    try:
        hooks.run("poststart", configured, container.for_hooks(state.RUNNING))
    except HookFailed as error:
        log.write("warning", explain(error))
        raise


FLAGS: dict[str, str] = {}
ARGUMENTS = (1, 1)


def main(call: Call) -> int:
    """``runc start ID``"""
    start(call.root, call.arguments[0])
    return 0
