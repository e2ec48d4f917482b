"""``longshore image from-host --python``: an interpreter of the host, its library and its packages.

The interpreter says itself where it looks for modules; all of it goes in under
the same paths, so that a virtualenv stays one. Compiled files are left out,
because they hold times and would make every image another; so are the parts
of the library that only serve its own tests and its installation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from longshore.api.errors import NotFound

if TYPE_CHECKING:
    from longshore.ctr.hostimage import Plan

_QUESTION = """
import json, sys, sysconfig
print(json.dumps([sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), sys.path]))
"""

SKIPPED = frozenset(("__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache"))
SKIPPED_ENDINGS = (".pyc", ".pyo", ".a")

# Of the standard library: tests, demonstrations, and packages that aren't on the path.
SKIPPED_OF_LIBRARY = frozenset(
    ("test", "idlelib", "turtledemo", "ensurepip", "site-packages", "dist-packages")
)


class Python(NamedTuple):
    """What an interpreter says of itself. `path` are the folders of its modules, the standard library first."""

    executable: str
    prefix: str
    base_prefix: str
    library: str
    path: tuple[str, ...]


def ask(executable: str = sys.executable) -> Python:
    """Isolated, so that neither our own folder nor PYTHONPATH gets in. Raises NotFound."""
    try:
        done = subprocess.run([executable, "-I", "-c", _QUESTION], capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotFound(f"a working Python at {executable}: {error}: not found") from None
    prefix, base_prefix, library, path = json.loads(done.stdout)
    folders = [folder for folder in path if os.path.isdir(folder)]
    return Python(os.path.abspath(executable), prefix, base_prefix, library, tuple(folders))


def add_python(plan: Plan, python: Python) -> None:
    """Everything that `python` needs to run with the packages it has. Raises NotFound (a library of the program)."""
    plan.add_file(python.executable)
    for prefix in {python.prefix, python.base_prefix}:
        mark = os.path.join(prefix, "pyvenv.cfg")
        if os.path.exists(mark):
            plan.add_plain(mark)
    for folder in python.path:
        for path in modules(folder, os.path.realpath(folder) == os.path.realpath(python.library)):
            add_module(plan, path)


def modules(folder: str, is_library: bool) -> Iterator[str]:
    """The files below a folder of the path, sorted."""
    skipped = SKIPPED | SKIPPED_OF_LIBRARY if is_library else SKIPPED
    for here, folders, files in os.walk(folder):
        top = here == folder
        folders[:] = sorted(
            name
            for name in folders
            if name not in (skipped if top else SKIPPED) and not _is_build(name, is_library)
        )
        for name in sorted(files):
            if not name.endswith(SKIPPED_ENDINGS):
                yield os.path.join(here, name)


def _is_build(name: str, is_library: bool) -> bool:
    """config-3.11-...: what is needed to build an interpreter, with a static copy of it."""
    return is_library and name.startswith("config-")


def add_module(plan: Plan, path: str) -> None:
    """A file of the path; an extension module with the libraries it needs, as far as the host has them."""
    if path.endswith(".so") or ".so." in os.path.basename(path):
        try:
            plan.add_file(path)
            return
        except (NotFound, ValueError):
            pass  # a module that doesn't work on the host either, or for another kind of machine
    plan.add_plain(path)
