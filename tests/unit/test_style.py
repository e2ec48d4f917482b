"""The style gate: what tools can say about the source, said by `make test` (and alone by `make lint`)."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
ROOTS = ("protos", "services", "clients", "runtime")
SCRIPTS = Path(sysconfig.get_path("scripts"))

pytestmark = pytest.mark.style


def run(*command: str | Path) -> None:
    """Run a tool of our virtualenv at the project's top; fail with what it said."""
    environ = os.environ | {"PATH": f"{SCRIPTS}:{os.environ.get('PATH', os.defpath)}"}
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}", pytrace=False)


def test_types() -> None:
    run(SCRIPTS / "mypy")


def test_lint() -> None:
    run(SCRIPTS / "ruff", "check", "--no-cache", ".")


def test_format() -> None:
    run(SCRIPTS / "ruff", "format", "--no-cache", "--check", ".")


def test_who_imports_whom() -> None:
    run(SCRIPTS / "lint-imports", "--no-cache", "--no-logo")


@pytest.mark.parametrize("root", ROOTS)
def test_no_root_claims_the_namespace(root: str) -> None:
    """A ``longshore/__init__.py`` in one root would hide the three others."""
    assert not (PROJECT / root / "longshore" / "__init__.py").exists()


def test_wheel_holds_code_and_stubs(tmp_path: Path) -> None:
    """Built without isolation: what the build needs is in the dev extra, and nothing is downloaded."""
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    stems = ["services/tasks/v1/tasks", "services/exits/v1/exits", "runtime/task/v3/shim", "types/mount"]
    for stem in stems:
        for ending in (".proto", "_pb2.py", "_pb2.pyi", "_pb2_grpc.py"):
            assert f"longshore/api/{stem}{ending}" in names
    sources = {
        str(path.relative_to(PROJECT / root))
        for root in ROOTS
        for path in (PROJECT / root / "longshore").rglob("*.py")
    }
    assert sources <= names
    assert not any(name.startswith(("tests/", "support/")) for name in names)
