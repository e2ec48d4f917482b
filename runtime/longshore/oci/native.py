"""The native launcher (launch.c): compiled where there is a compiler; without one, the runtime seals itself.

It saves the start of an interpreter, a quarter of ``runc run``.
"""

from __future__ import annotations

import os
import shutil
import subprocess

SOURCE = os.path.join(os.path.dirname(__file__), "launch.c")
_SECONDS = 60

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def build(target: str, python: str, arguments: Sequence[str], mark: str) -> bool:
    """Write a program that executes ``python arguments...`` and its own; False if there is no compiler, or it can't.

    ``mark`` is to be found in the file.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return False
    words = [compiler, "-O2", "-Wall", "-s", "-o", target, SOURCE]
    words += [f"-DPYTHON={_c_string(python)}", f"-DMARK={_c_string(mark)}"]
    words.append(f"-DARGUMENTS={','.join(map(_c_string, arguments))}")
    # Static: a dynamic one spends as long on its libraries as on its work. Not every system has what that needs.
    return any(_compiled([*words, *more]) for more in (["-static"], []))


def _compiled(words: list[str]) -> bool:
    try:
        done = subprocess.run(words, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _c_string(text: str) -> str:
    return '"' + "".join(f"\\{byte:03o}" for byte in os.fsencode(text)) + '"'
