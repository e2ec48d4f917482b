"""Containers outlive the package: with every file of ours gone, those that run can be used and ended."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from support import goparts, images
from support.daemon import Longshore
from support.process import eventually

ROOTS = ("protos", "services", "clients", "runtime")
# Not the editable install, which would still be there: -S reads no .pth file.
START = """
import sys
sys.path += {paths!r}
from longshore.launcher import main
sys.argv[:1] = ["longshore"]
sys.exit(main())
"""


def test_package_is_removed_under_running_containers(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for root in ROOTS:
        shutil.copytree(goparts.PROJECT / root / "longshore", site / "longshore", dirs_exist_ok=True)
    program = START.format(paths=[str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    with Longshore(program=[sys.executable, "-I", "-S", "-c", program]) as daemon:
        daemon.go_ctr("images", "import", images.busybox_archive(tmp_path))
        names = [f"c{number}" for number in range(10)]
        for name in names:
            daemon.go_ctr("run", "-d", images.BUSYBOX, name, "sleep", "1000")
        shutil.rmtree(site)
        for name in names:
            script = "echo alive; exit 3"
            done = daemon.go_ctr("tasks", "exec", "--exec-id", "e1", name, "sh", "-c", script, check=False)
            assert (done.stdout, done.returncode) == ("alive\n", 3), done.stderr
            daemon.go_ctr("tasks", "pause", name)
            daemon.go_ctr("tasks", "resume", name)
            daemon.go_ctr("tasks", "metrics", name)
            daemon.go_ctr("tasks", "kill", "-s", "KILL", name)
        eventually(lambda: "RUNNING" not in daemon.go_ctr("tasks", "ls").stdout, what="all have ended")
        for name in names:
            done = daemon.go_ctr("tasks", "delete", name, check=False)
            assert "non-zero exit code 137" in done.stderr
            daemon.go_ctr("containers", "rm", name)
