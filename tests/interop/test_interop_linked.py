"""What `longshore link` writes, on PATH before Debian's parts: Debian's containerd runs it as its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.link import link
from support import goparts, images
from support.bundles import bundle
from support.daemon import Longshore
from support.folders import short_folder
from support.realdaemon import RealContainerd


@pytest.fixture(scope="module")
def linked() -> Iterator[Path]:
    with short_folder() as folder:
        link(str(folder))
        yield folder


def lives(daemon: RealContainerd | Longshore) -> None:
    """Run, exec, kill, delete, with Debian's ctr."""
    done = daemon.go_ctr("run", "--rm", images.BUSYBOX, "c1", "sh", "-c", "echo out; exit 3", check=False)
    assert (done.stdout, done.returncode) == ("out\n", 3), done.stderr
    daemon.go_ctr("run", "-d", images.BUSYBOX, "c2", "sleep", "1000")
    assert daemon.go_ctr("tasks", "exec", "--exec-id", "e", "c2", "echo", "in").stdout == "in\n"
    daemon.go_ctr("tasks", "rm", "-f", "c2", check=False)
    daemon.go_ctr("containers", "rm", "c2")


def test_runc_below_debians_shim(linked: Path, tmp_path: Path) -> None:
    with RealContainerd(programs={"runc": linked / "runc"}) as real:
        real.go_ctr("images", "import", images.busybox_archive(tmp_path))
        lives(real)


def test_shim_below_debians_containerd(linked: Path, tmp_path: Path) -> None:
    name = "containerd-shim-runc-v2"
    with RealContainerd(programs={name: linked / name, "runc": linked / "runc"}) as real:
        real.go_ctr("images", "import", images.busybox_archive(tmp_path))
        lives(real)


def test_containerd_and_ctr(linked: Path, tmp_path: Path) -> None:
    with short_folder() as folder:
        (folder / "longshore").write_text(f'#!/bin/sh\nshift\nexec {linked}/containerd "$@"\n')
        (folder / "longshore").chmod(0o755)
        with Longshore(program=(folder / "longshore",)) as daemon:
            daemon.go_ctr("images", "import", images.busybox_archive(tmp_path))
            lives(daemon)
            words = [
                str(linked / "ctr"),
                "-a",
                str(daemon.address),
                "-n",
                daemon.namespace,
                "images",
                "ls",
                "-q",
            ]
            said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            assert said == f"{images.BUSYBOX}\n"


@pytest.mark.parametrize("name", ["original", "linked"])
def test_both_runcs_run_the_same_bundle(linked: Path, name: str) -> None:
    with bundle([goparts.path("runc") if name == "original" else linked / "runc"]) as box:
        done = box.run("echo out; exit 4")
        assert (done.returncode, done.stdout) == (4, "out\n")
