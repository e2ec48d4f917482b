"""Write the runtime as one precompiled file: ``python -m longshore.oci.onefile OUT.pyc``.

Run it as ``python -I -S OUT.pyc VERB ...``. Nothing is searched on disk and no
site-packages are scanned: that is two thirds of the start-up of an installed
package. The file holds `longshore.linux` and `longshore.oci`, so that a running
container's runtime doesn't depend on the installation either.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import sys
from types import CodeType

PACKAGES = ("longshore.linux", "longshore.oci")

_LOADER = """
import sys, marshal
from _frozen_importlib import ModuleSpec

class Loader:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in MODULES:
            spec = ModuleSpec(name, Loader, origin=name, is_package=MODULES[name][0])
            return spec

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        exec(marshal.loads(MODULES[module.__name__][1]), module.__dict__)

sys.meta_path.insert(0, Loader)
from longshore.oci.main import main
sys.exit(main())
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
                code = compile(source.read(), module, "exec", dont_inherit=True, optimize=2)
            found[module] = (is_package, marshal.dumps(code))


def build(target: str) -> None:
    """Write the file; it belongs to this very interpreter version."""
    tree = f"MODULES = {modules()!r}\n{_LOADER}"
    code: CodeType = compile(tree, "longshore-runc", "exec", dont_inherit=True, optimize=2)
    # Flag 0b01: unchecked hash, so that no source is looked for.
    header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
    temporary = f"{target}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        file.write(header + marshal.dumps(code))
    os.replace(temporary, target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m longshore.oci.onefile OUT.pyc")
    build(sys.argv[1])
