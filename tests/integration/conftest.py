"""Fixtures of the privileged tests: a container bundle and our runtime to run it with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.oci import onefile
from support import goparts, require
from support.bundles import BASE_PYTHON, Bundle, bundle


@pytest.fixture(scope="session")
def our_runc(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """Our runtime as it is installed: one precompiled file and an interpreter that knows nothing else."""
    file = tmp_path_factory.mktemp("runc") / "runc.pyc"
    onefile.build(str(file))
    return [BASE_PYTHON, "-I", "-S", file]


@pytest.fixture
def box(our_runc: list[str | Path]) -> Iterator[Bundle]:
    """A bundle with a busybox root, run by our runtime."""
    require.go("busybox")
    with bundle(our_runc) as made:
        yield made


@pytest.fixture
def go_box() -> Iterator[Bundle]:
    """The same, run by Debian's runc."""
    require.go("busybox", "runc")
    with bundle([goparts.path("runc")]) as made:
        yield made
