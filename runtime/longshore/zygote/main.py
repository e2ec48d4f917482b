"""The zygote: loads what its children need, then forks one per request.

It is single-threaded, parses nothing and keeps no state: a request is one
packet on the control socket with descriptors attached, the first of which is
the reply socket. The child reads its arguments from there and answers there
(`longshore.zygote.wire`); the zygote only forks. It ends when the control
socket does, that is, with its daemon: one that outlived it would keep old
code, an old environment and old namespaces.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from longshore.linux import processes
from longshore.zygote import packing, wire

# Without the enums that the signal module wraps them in: they would cost each shim 100 KiB of written pages.
_set_handler: Callable[[int, int], object] = import_module("_signal").signal
_SIGCHLD = int(signal.SIGCHLD)

# The shim's `from_zygote`, once it is loaded.
_be_shim: Callable[[bytes, list[int]], NoReturn]

# Loaded before the first fork, shared by all children. Whatever a child enters a container with must
# be here: nothing may be imported there. What only workers use comes first, what shims live by last:
# what is loaded together lies together, and a shim then writes to fewer pages.
WARM = (
    "longshore.layers.worker",
    "longshore.shim.library",
    "longshore.shim.command",
    "longshore.shim.remove",
    "longshore.shim.start",
)

# Bytecode is specialised after eight runs; beyond twenty nothing is left to gain.
_ROUNDS = 20


def main() -> int:
    """Serve the control socket whose descriptor is the first argument; the others are modules to warm."""
    control = socket.socket(fileno=int(sys.argv[1]))
    processes.set_name("zygote")
    if sys.argv[2:]:
        _warm_workers(sys.argv[2:])
    else:
        _warm()
    # The kernel reaps for us: nobody here asks how a child ended, the reply socket tells.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        packet, fds, _, _ = socket.recv_fds(control, wire.MAX_PACKET, wire.MAX_FDS)
        if not packet:
            return 0
        if os.fork() == 0:
            _child(packet, fds)
        for fd in fds:
            os.close(fd)


def _warm() -> None:
    """Load everything, then play a shim's life, so that children share what that leaves in memory."""
    global _be_shim
    for module in WARM:
        import_module(module)
    _prepare()
    try:
        start = import_module("longshore.shim.start")
        _be_shim = start.from_zygote
        start.rehearse(_directory())
    except Exception as error:
        # Colder shims, no more than that.
        print(f"zygote: rehearsal: {error}", file=sys.stderr)
    _settle()


def _warm_workers(modules: list[str]) -> None:
    """Load these alone, and run their `rehearse(directory, rounds)`: for a daemon that starts no shims."""
    loaded = [module for name in modules if (module := _loaded(name)) is not None]
    _prepare()
    wire.rehearse(_ROUNDS)
    for module in loaded:
        if hasattr(module, "rehearse"):
            try:
                module.rehearse(_directory(), _ROUNDS)
            except Exception as error:
                print(f"zygote: {module.__name__}: {error}", file=sys.stderr)
    _settle()


def _loaded(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError as error:
        # A colder worker, which will say it where it is heard.
        print(f"zygote: {name}: {error}", file=sys.stderr)
        return None


def _directory() -> str:
    return os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("TMPDIR") or "/tmp"


def _prepare() -> None:
    # We have one thread, so a child has nothing to repair in this module, but would write to it.
    vars(threading)["_after_fork"].__code__ = (lambda: None).__code__
    gc.disable()
    sys._clear_type_cache()


def _settle() -> None:
    """Nothing of what is loaded now changes any more, nor has room for what children make."""
    gc.collect()
    packing.fill_holes()
    # Without the freeze the first collection in a child would write to, and so copy, every page.
    gc.freeze()


def _child(packet: bytes, fds: list[int]) -> NoReturn:
    try:
        _set_handler(_SIGCHLD, 0)
        if packet == wire.CALL:
            processes.close_fds_except([0, 1, 2, *fds])
            _work(fds[0], fds[1:])
        else:
            _be_shim(packet, fds)
    except BaseException:
        # The last thing between a mistake and the zygote's own loop, where a child must never return to.
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _work(reply: int, fds: list[int]) -> NoReturn:
    zygote = os.getppid()
    processes.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != zygote:
        os._exit(1)
    processes.set_name("longshore-worker")
    wire.started(reply)
    request = wire.receive(reply)
    module, _, name = request["function"].partition(":")
    try:
        value = getattr(import_module(module), name)(request["arguments"], fds)
        if not callable(value):
            wire.answer(reply, value)
            os._exit(0)
    except Exception as error:
        wire.answer_error(reply, error)
        os._exit(0)
    processes.set_pdeathsig(0)
    wire.answer(reply, {"pid": os.getpid()})
    value()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
