"""Bringing a shim to life.

    from our daemon     it listens, the zygote forks; the child is the shim, and says so on the reply socket
    from any other      `containerd-shim-longshore-v1 start` forks; the child listens and is the shim, the
                        parent prints its address and ends

In the zygote all that a shim consists of is made before the fork (`rehearse`);
the child only fills in its parameters.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from functools import cache
from typing import NamedTuple, NoReturn

from longshore.linux import files, processes
from longshore.shim import command, library, rehearsal  # noqa: F401  (loaded before the first fork, for the workers)
from longshore.shim.daemon import Daemon
from longshore.shim.runtime import DEFAULT_ROOT
from longshore.zygote import place

MAX_OOM_SCORE = 1000
_LAST_FD = 0x7FFFFFFF


class Parameters(NamedTuple):
    """What a shim is told at its start (see `longshore.zygote.client.ShimRequest`)."""

    namespace: str
    id: str
    bundle: str
    address: str
    ttrpc_address: str = ""
    exits_address: str = ""
    runtime_root: str = ""


_template: Daemon | None = None


def rehearse(directory: str) -> None:
    """Warm the zygote up, before its first fork (see `longshore.shim.rehearsal`). Raises OSError."""
    global _template
    _argument_area()
    for failure in rehearsal.rehearse(directory):
        print(f"zygote: rehearsal: {failure}", file=sys.stderr)
    _template = Daemon()


def from_zygote(packet: bytes, fds: list[int]) -> NoReturn:
    """In a child of the zygote: become the shim. `fds`: the reply socket, the listening socket."""
    parameters = Parameters(*packet.decode("utf-8", "surrogateescape").split("\0")[1:])
    listener = socket.socket(fileno=fds[1])
    place.take_over(listener)
    os.setsid()
    os.write(fds[0], b"+%d" % os.getpid())
    serve(listener, parameters)


def serve(listener: socket.socket, parameters: Parameters) -> NoReturn:
    """Be the shim until it is shut down."""
    try:
        _become_daemon(listener.fileno(), parameters)
        daemon = _template or Daemon()
        daemon.run(
            listener,
            namespace=parameters.namespace,
            ttrpc_address=parameters.ttrpc_address or f"{parameters.address}.ttrpc",
            exits_address=parameters.exits_address,
            runtime_root=parameters.runtime_root or DEFAULT_ROOT,
            log=f"{parameters.bundle}/log",
        )
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _become_daemon(listener: int, parameters: Parameters) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, listener)
    os.closerange(listener + 1, _LAST_FD)
    os.chdir("/")
    os.umask(0o022)
    processes.set_name("longshore-shim")
    _set_title(
        f"containerd-shim-longshore-v1 -namespace {parameters.namespace} -id {parameters.id} "
        f"-address {parameters.address}"
    )
    _raise_oom_score()
    gc.disable()


def _raise_oom_score() -> None:
    """One above the daemon's (inherited): in need, the kernel takes us before it takes the daemon."""
    score = int(files.read_bounded("/proc/self/oom_score_adj"))
    _write("/proc/self/oom_score_adj", b"%d" % min(score + 1, MAX_OOM_SCORE), 0)


def _set_title(title: str) -> None:
    """Show in ps which container this is: overwrite the arguments that we were started with."""
    start, end = _argument_area()
    data = title.encode()[: end - start - 1]
    _write("/proc/self/mem", data + bytes(end - start - len(data)), start)


@cache
def _argument_area() -> tuple[int, int]:
    """Where the kernel put the arguments; the same in every child, so the zygote asks once."""
    fields = files.read_bounded("/proc/self/stat").rpartition(b")")[2].split()
    return int(fields[45]), int(fields[46])


def _write(path: str, data: bytes, offset: int) -> None:
    """Write to a file of the kernel's; that it doesn't let us is no reason not to run."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.pwrite(fd, data, offset)
    except OSError:
        pass
    finally:
        os.close(fd)
