"""Compile our .proto files into the stubs that stand beside them.

Two ways in: hatchling loads this file as a build hook when a wheel, an sdist
or an editable install is made, and ``python protos/compile.py`` (``make
protos``) does the same by hand, because an editable install does not notice
when a .proto file changes afterwards.

The .proto files import each other by ``longshore/api/...``, so that protoc
writes Python imports below ``longshore.api`` and no top-level ``types``
package appears.
"""

from __future__ import annotations

import filecmp
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from importlib import import_module, resources
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent


def script(name: str) -> str:
    """A console script of the interpreter we run in: PATH serves the isolated build, the rest the virtualenv."""
    folders = [os.environ.get("PATH", ""), str(Path(sys.executable).parent), sysconfig.get_path("scripts")]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        raise RuntimeError(f"{name} not found; install mypy-protobuf (pip install -e '.[dev]')")
    return found


def compile_protos(root: Path = ROOT) -> list[Path]:
    """Compile every .proto below `root`; returns the sources. Raises RuntimeError when protoc fails.

    Stubs that come out as they were are not touched and the others are
    replaced whole, so that programs running from this tree never read half a
    file.
    """
    from grpc_tools import protoc

    sources = sorted(root.glob("longshore/**/*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    common_protos = Path(next(iter(import_module("google.rpc").__path__))).parent.parent
    with tempfile.TemporaryDirectory(prefix=".stubs-", dir=root) as output:
        arguments = [
            "protoc",
            f"--proto_path={root}",
            f"--proto_path={well_known}",
            f"--proto_path={common_protos}",
            f"--plugin=protoc-gen-mypy={script('protoc-gen-mypy')}",
            f"--plugin=protoc-gen-mypy_grpc={script('protoc-gen-mypy_grpc')}",
            f"--python_out={output}",
            f"--grpc_python_out={output}",
            f"--mypy_out=quiet:{output}",
            f"--mypy_grpc_out=quiet:{output}",
            *(str(source) for source in sources),
        ]
        status = protoc.main(arguments)
        if status != 0:
            raise RuntimeError(f"protoc ended with status {status}")
        _move_changed(Path(output), root)
    return sources


def compile_init(root: Path) -> bool:
    """docker-init, by the package's own means; False where there is no C compiler."""
    path = root / "runtime/longshore/init/native.py"
    spec = importlib.util.spec_from_file_location("longshore_init_native", path)
    assert spec is not None and spec.loader is not None
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    return bool(native.build())


def _move_changed(output: Path, root: Path) -> None:
    for stub in (path for path in output.rglob("*") if path.is_file()):
        target = root / stub.relative_to(output)
        if not target.exists() or not filecmp.cmp(stub, target, shallow=False):
            stub.replace(target)


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script where no build backend is installed
    pass
else:

    class CompileProtos(BuildHookInterface):  # type: ignore[type-arg]
        PLUGIN_NAME = "compile-protos"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            compile_protos(Path(self.root) / "protos")
            if compile_init(Path(self.root)) and self.target_name == "wheel" and version == "standard":
                # A program inside: for this machine's kind only, but for any Python.
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-linux_{os.uname().machine}"


if __name__ == "__main__":
    print(f"compiled {len(compile_protos())} .proto files")
    print(
        "compiled docker-init"
        if compile_init(ROOT.parent)
        else "no docker-init: no C compiler, or no static C library"
    )
