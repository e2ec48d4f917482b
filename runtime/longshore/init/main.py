"""``longshore docker-init``: become the native program. Containers are given that program itself."""

from __future__ import annotations

import os
import sys

from longshore.init.native import Missing, path


def main() -> int:
    """Doesn't return, unless there is none."""
    try:
        program = path()
    except Missing as error:
        print(f"docker-init: {error}", file=sys.stderr)
        return 1
    os.execv(program, ["docker-init", *sys.argv[1:]])
