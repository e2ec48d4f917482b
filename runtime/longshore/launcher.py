"""The multi-call command: ``longshore PROGRAM ...``, or a link named like a program.

A table of names to module paths and nothing more. It imports none of them but
the one asked for, so that no program pays for another's start-up.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import NoReturn

PROGRAMS = {
    "containerd": "longshore.containerd.main",
    "containerd-shim": "longshore.shim.main",
    "containerd-shim-longshore-v1": "longshore.shim.main",
    "ctr": "longshore.ctr.main",
    "demo": "longshore.ctr.demo",
    "docker": "longshore.docker.main",
    "docker-init": "longshore.init.main",
    "docker-proxy": "longshore.proxy.main",
    "dockerd": "longshore.dockerd.main",
    "gc": "longshore.containerd.gc.cli",
    "image": "longshore.ctr.hostimage",
    "link": "longshore.link",
    "runc": "longshore.oci.main",
    "shim": "longshore.shim.main",
    "up": "longshore.up",
}

# They answer and are gone, and leave nothing that an interpreter's end would have to undo.
BRIEF = frozenset({"ctr", "docker"})


def main() -> int | None:
    """Run the program named by argv[0], else by the first argument; each module has a ``main()`` reading sys.argv."""
    name = sys.argv[0].rpartition("/")[2]
    if name not in PROGRAMS:
        if len(sys.argv) < 2 or sys.argv[1] not in PROGRAMS:
            return _usage(sys.argv[1] if len(sys.argv) > 1 else None)
        name = sys.argv[1]
        sys.argv[:2] = [name]
    if name in BRIEF:
        hurry()
    status: int | None = import_module(PROGRAMS[name]).main()
    if name in BRIEF:
        leave(status)
    return status


def hurry() -> None:
    """Look for garbage rarely: what a start makes is none, and the looking is a tenth of it."""
    gc.set_threshold(50_000)


def leave(status: int | None) -> NoReturn:
    """End the process with what it has printed out, and without taking the interpreter apart, which takes 20 ms.

    Daemon threads end with it; `atexit` isn't called. Output that nobody reads is no error, output that
    can't be written is one.
    """
    code = status or 0
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        os.write(2, f"{sys.argv[0].rpartition('/')[2]}: writing the output: {error.strerror}\n".encode())
        code = code or 1
    os._exit(code)


def _usage(asked: str | None) -> int:
    """Name the programs: on stdout when asked for help, else on stderr with status 2."""
    programs = "|".join(sorted(PROGRAMS))
    if asked in ("-h", "--help"):
        print(f"usage: longshore {programs} ...")
        return 0
    problem = "" if asked is None else f"no program {asked!r}; "
    print(f"longshore: {problem}usage: longshore {programs} ...", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
