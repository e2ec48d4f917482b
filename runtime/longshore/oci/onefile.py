"""Write the runtime as one precompiled file: ``python -m longshore.oci.onefile OUT.pyc``.

Run it as ``python -I -S OUT.pyc VERB ...``. Nothing is searched on disk and no
site-packages are scanned: that is two thirds of the start-up of an installed
package. The file holds `longshore.linux` and `longshore.oci`, so that a running
container's runtime doesn't depend on the installation either.
"""

from __future__ import annotations

import ast
import importlib.util
import marshal
import os
import sys
from types import CodeType

PACKAGES = ("longshore.linux", "longshore.oci")

_LOADER = """
import gc, sys, marshal, posix
from _frozen_importlib import ModuleSpec

gc.disable()
index = {}
for line in INDEX.splitlines():
    name, is_package, offset, length = line.split()
    index[name] = is_package == "1", int(offset), int(length)

class Loader:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in index:
            return ModuleSpec(name, Loader, origin=name, is_package=index[name][0])

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        _, offset, length = index[module.__name__]
        exec(marshal.loads(posix.pread(file, length, offset)), module.__dict__)

file = posix.open(__file__, posix.O_RDONLY | posix.O_CLOEXEC)
sys.meta_path.insert(0, Loader)
from longshore.oci.main import main
status = main()
sys.stdout.flush()
# Not by returning: tidying up an interpreter takes as long as some verbs.
posix._exit(status)
"""


def modules() -> dict[str, tuple[bool, bytes]]:
    """name -> (is a package, marshalled code) of everything the runtime consists of."""
    found: dict[str, tuple[bool, bytes]] = {
        "longshore": (True, marshal.dumps(compile("", "longshore", "exec")))
    }
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ImportError(f"{package} is not installed")
        _collect(package, spec.submodule_search_locations[0], found)
    return found


def _collect(package: str, directory: str, found: dict[str, tuple[bool, bytes]]) -> None:
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if os.path.isfile(os.path.join(path, "__init__.py")):
            _collect(f"{package}.{name}", path, found)
        elif name.endswith(".py"):
            is_package = name == "__init__.py"
            module = package if is_package else f"{package}.{name[:-3]}"
            with open(path, encoding="utf-8") as source:
                code = _code(source.read(), module)
            found[module] = (is_package, marshal.dumps(code))


def _code(source: str, module: str) -> CodeType:
    """The module compiled; the import of ``__future__``, a file to be searched and read, becomes its flag."""
    tree = ast.parse(source)
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
    ]
    flags = annotations.compiler_flag
    code: CodeType = compile(tree, module, "exec", flags=flags, dont_inherit=True, optimize=2)
    return code


def build(target: str) -> None:
    """Write the file; it belongs to this very interpreter version.

    The modules stand behind the loader's own code, where the interpreter doesn't
    look, and are read one by one as they are imported.
    """
    found = modules()
    head = _head(found, 0)
    head = _head(found, len(head))  # as long as the first: the index is of fixed width
    temporary = f"{target}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        file.write(head + b"".join(code for _, code in found.values()))
    os.replace(temporary, target)


def _head(found: dict[str, tuple[bool, bytes]], offset: int) -> bytes:
    lines = []
    for name, (is_package, code) in found.items():
        lines.append(f"{name} {int(is_package)} {offset:010d} {len(code):010d}")
        offset += len(code)
    text = "\n".join(lines)
    loader = compile(f"INDEX = {text!r}\n{_LOADER}", "longshore-runc", "exec", dont_inherit=True, optimize=2)
    # Flag 0b01: unchecked hash, so that no source is looked for.
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(loader)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m longshore.oci.onefile OUT.pyc")
    build(sys.argv[1])
