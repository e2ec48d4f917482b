"""The multi-call command: ``longshore PROGRAM ...``, or a link named like a program.

A table of names to module paths and nothing more. It imports none of them but
the one asked for, so that no program pays for another's start-up.
"""

from __future__ import annotations

import sys
from importlib import import_module

PROGRAMS = {
    "containerd": "longshore.containerd.main",
    "containerd-shim": "longshore.shim.main",
    "containerd-shim-longshore-v1": "longshore.shim.main",
    "ctr": "longshore.ctr.main",
    "demo": "longshore.ctr.demo",
    "image": "longshore.ctr.hostimage",
    "runc": "longshore.oci.main",
    "shim": "longshore.shim.main",
}


def main() -> int | None:
    """Run the program named by argv[0], else by the first argument; each module has a ``main()`` reading sys.argv."""
    name = sys.argv[0].rpartition("/")[2]
    if name not in PROGRAMS:
        if len(sys.argv) < 2 or sys.argv[1] not in PROGRAMS:
            asked = f"no program {sys.argv[1]!r}; " if len(sys.argv) > 1 and sys.argv[1] not in ("-h", "--help") else ""
            print(f"longshore: {asked}usage: longshore {'|'.join(sorted(PROGRAMS))} ...", file=sys.stderr)
            return 2 if asked or len(sys.argv) < 2 else 0
        name = sys.argv[1]
        sys.argv[:2] = [name]
    status: int | None = import_module(PROGRAMS[name]).main()
    return status


if __name__ == "__main__":
    sys.exit(main())
