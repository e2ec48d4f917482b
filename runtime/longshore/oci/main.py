"""``longshore runc``: the way in.

What enters a container is started again sealed (see longshore.linux.seal), and
that before anything else is imported: it all happens twice otherwise.
"""

from __future__ import annotations

import sys

_ENTERING = frozenset(("create", "run", "exec"))


def main() -> int:
    """Run the command in sys.argv; the exit status."""
    if not _ENTERING.isdisjoint(sys.argv):
        from longshore.linux import seal

        seal.ensure()
    from longshore.oci import dispatch

    return dispatch.main()


if __name__ == "__main__":
    sys.exit(main())
