"""The modules that programs import, compiled, in one file: finding them takes a quarter of a start.

A launcher executes the file's head, which puts a finder before Python's own. A
module is taken from the file while its source is what it was when the file was
written (time and size, as for ``__pycache__``); else, or if anything is wrong
with the file, it is looked for as ever. So the file never decides what runs,
only how soon. It holds longshore, and of other packages and the standard
library what `STARTS` imports.

    16 bytes: Python's magic number, the head's length and `MARK`
    the head, marshalled: the finder's code, and the index
    the modules, marshalled code, read as they are imported
"""

from __future__ import annotations

import json
import marshal
import os
import subprocess
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER
from typing import Final

NAME: Final = ".longshore-modules.pyc"
MARK: Final = b"longshor"
NOTHING: Final = bytes(8) + MARK

# What programs import until they do what they are there for.
STARTS: Final = (
    "longshore.containerd.main",
    "longshore.containerd.daemon",
    "longshore.ctr.main",
    "longshore.ctr.run",
    "longshore.client.client",
    "longshore.client.images",
    "longshore.client.snapshots",
    "longshore.client.tasks",
    "longshore.client.version",
    "longshore.client.wire.blocking",
    "longshore.client.wire.loop",
    "longshore.docker.main",
    "longshore.docker.run",
    "longshore.docker.containers",
    "longshore.docker.images",
    "longshore.docker.system",
    "longshore.dockerd.main",
    "longshore.dockerd.daemon",
)

_ASK = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
found = {}
for name, module in list(sys.modules.items()):
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None)
    if spec is not None and spec.name == name and origin and origin.endswith(".py"):
        found[name] = origin
import longshore
print(json.dumps({"modules": found, "folders": list(longshore.__path__)}))
"""

# Name -> place behind the head, length, whether it is a package, source file, its time and size.
Index = dict[str, tuple[int, int, bool, str, int, int]]

# Runs before anything is imported, so only with what every interpreter has.
_FINDER = """
import marshal, posix, sys
from _frozen_importlib_external import SourceFileLoader, spec_from_file_location

def install(path, base, index):
    file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)

    class Loader(SourceFileLoader):
        def get_code(self, fullname):
            at, length = self.place
            try:
                return marshal.loads(posix.pread(file, length, at))
            except (EOFError, OSError, TypeError, ValueError):
                return super().get_code(fullname)

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            entry = index.pop(name, None)  # once: what is imported again has changed, perhaps
            if entry is None:
                return None
            at, length, package, origin, time, size = entry
            try:
                found = posix.stat(origin)
            except OSError:
                return None
            if (int(found.st_mtime), found.st_size) != (time, size):
                return None
            loader = Loader(name, origin)
            loader.place = base + at, length
            folders = [origin.rpartition("/")[0]] if package else None
            return spec_from_file_location(name, origin, loader=loader, submodule_search_locations=folders)

    sys.meta_path.insert(0, Finder)

install(PATH, BASE, INDEX)
"""

# What a launcher begins with. Whatever is wrong with the file, the program starts without it.
PRELUDE: Final = """\
import marshal, sys
from _frozen_importlib_external import MAGIC_NUMBER
try:
    with open({file!r}, "rb", buffering=0) as file:
        head = file.read(16)
        if head[:4] == MAGIC_NUMBER:
            length = int.from_bytes(head[4:8], "little")
            finder, index = marshal.loads(file.read(length))
            exec(finder, {{"PATH": {file!r}, "BASE": 16 + length, "INDEX": index}})
except (EOFError, OSError, TypeError, ValueError):
    pass
"""


def build(target: str, python: str) -> None:
    """Write the file. Raises OSError, and CalledProcessError when a program can't be imported."""
    index: Index = {}
    codes: list[bytes] = []
    at = 0
    for name, origin in sorted(_modules(python).items()):
        found = os.stat(origin)
        data = marshal.dumps(SourceFileLoader(name, origin).get_code(name))
        package = os.path.basename(origin) == "__init__.py"
        index[name] = (at, len(data), package, origin, int(found.st_mtime), found.st_size)
        codes.append(data)
        at += len(data)
    finder = compile(_FINDER, NAME, "exec", dont_inherit=True)
    head = marshal.dumps((finder, index))
    with open(target, "wb") as file:
        file.write(MAGIC_NUMBER + len(head).to_bytes(4, "little") + MARK + head)
        file.writelines(codes)


def _modules(python: str) -> dict[str, str]:
    """Name -> source file, of what `STARTS` import, and of longshore as far as it isn't generated for servers."""
    asked = subprocess.run([python, "-I", "-c", _ASK, *STARTS], check=True, capture_output=True, text=True)
    answer = json.loads(asked.stdout)
    found: dict[str, str] = answer["modules"]
    for folder in answer["folders"]:
        for place, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for name in files:
                if name.endswith(".py") and not name.endswith("_pb2_grpc.py"):
                    path = os.path.join(place, name)
                    found.setdefault(_name(folder, path), path)
    return found


def _name(folder: str, path: str) -> str:
    """The module at `path`, below the `folder` of longshore."""
    words = os.path.relpath(path, folder).removesuffix(".py").split(os.sep)
    return ".".join(["longshore", *(words[:-1] if words[-1] == "__init__" else words)])
