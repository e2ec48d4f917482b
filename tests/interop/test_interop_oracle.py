"""The oracle itself: Debian's stack, whole, runs a container in our harness. When this fails, look here first."""

from __future__ import annotations

from pathlib import Path

from support import images
from support.realdaemon import RealContainerd


def test_real_stack_runs_an_image(tmp_path: Path) -> None:
    with RealContainerd() as real:
        real.ctr("images", "import", images.busybox_archive(tmp_path))
        done = real.ctr("run", "--rm", images.BUSYBOX, "one", "sh", "-c", "echo hello; exit 7", check=False)
        assert (done.stdout, done.returncode) == ("hello\n", 7)


def test_real_stack_runs_a_root_folder(tmp_path: Path) -> None:
    """ctr sets no PATH for --rootfs: name the program by its whole path."""
    with RealContainerd() as real:
        root = images.busybox_rootfs(tmp_path)
        done = real.ctr("run", "--rm", "--rootfs", root, "one", "/bin/cat", "/etc/hostname")
        assert done.stdout == "busybox\n"
