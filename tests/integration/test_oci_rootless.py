"""Containers of ordinary users, and of the root of a user namespace: the whole life, without root's rights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from support import require
from support.bundles import Bundle, bundle
from support.daemon import LONGSHORE

UID, GID = 4321, 4322
FOREVER = "while :; do sleep 1000 & wait $!; done"


@pytest.fixture
def users() -> Iterator[Bundle]:
    """A bundle of a user's own, with the configuration that ``runc spec --rootless`` writes for them."""
    require.root()
    for tool in ("setpriv", "unshare"):
        if not shutil.which(tool):
            require.lacking(f"there is no {tool}")
    # Our interpreter may lie in a folder of root's: reading it is the one right that this user has more than others.
    right = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    who = ["setpriv", f"--reuid={UID}", f"--regid={GID}", "--clear-groups", *right]
    with bundle([*who, LONGSHORE, "runc"]) as box:
        for folder, _, names in os.walk(box.folder):
            for path in (folder, *(os.path.join(folder, name) for name in names)):
                os.chown(path, UID, GID, follow_symlinks=False)
        box.config = {}
        subprocess.run([*box.runtime, "spec", "--rootless"], cwd=box.folder, check=True)
        box.config = json.loads((box.folder / "config.json").read_text())
        box.config["process"]["terminal"] = False
        os.unlink(box.folder / "config.json")
        yield box


def test_a_users_container(users: Bundle) -> None:
    users.config["process"]["oomScoreAdj"] = 300
    users.shell(FOREVER)
    users.detached("run", "--detach", "c")
    pid = users.inspect()["pid"]
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    script = "id -u; cat /proc/self/uid_map /proc/1/oom_score_adj /proc/self/oom_score_adj; hostname;"
    script += f"for k in {' '.join(kinds)}; do readlink /proc/self/ns/$k; done"
    assert users.do("exec", "c", "sh", "-c", script).split() == [
        *("0", "0", str(UID), "1", "300", "300", "runc"),
        *(os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds),
    ]
    for words, reason in (
        (("exec", "--user", "7", "c", "true"), "cannot set uid to unmapped user in user namespace"),
        (("exec", "--additional-gids", "7", "c", "true"), "cannot set any additional groups"),
        (("update", "--memory", "10m", "c"), "cannot set memory limit"),
        (("ps", "c"), "the container has no cgroup"),
        (("pause", "c"), "freezer"),
    ):
        done = users.call(*words)
        assert done.returncode != 0
        assert reason in done.stderr
    users.do("kill", "--all", "c", "KILL")
    users.do("delete", "--force", "c")
    assert users.do("list", "--quiet") == ""


def test_what_a_user_may_not(users: Bundle) -> None:
    plain = users.config["linux"]
    for changes, reason in (
        ({"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}, "only the caller's own id"),
        ({"gidMappings": [{"containerID": 0, "hostID": GID, "size": 2}]}, "only the caller's own id"),
        ({"cgroupsPath": "/somewhere"}, "permission denied"),
        ({"resources": {"pids": {"limit": 5}}}, "cannot set pids limit"),
    ):
        users.config["linux"] = {**plain, **changes}
        done = users.run("echo ran")
        assert (done.returncode, done.stdout) == (1, "")
        assert reason in done.stderr
        assert not users.state.exists() or not list(users.state.iterdir())
    users.config["linux"] = {"namespaces": [{"type": "mount"}]}
    del users.config["hostname"]
    assert "rootless container requires user namespaces" in users.run("echo ran").stderr


def test_root_of_a_user_namespace(box: Bundle) -> None:
    if not shutil.which("unshare"):
        require.lacking("there is no unshare")
    box.shell(FOREVER)
    # One level: that a parent is ours to remove is marked by an attribute which only the host's root can set.
    box.config["linux"]["cgroupsPath"] = f"/{box.name}"
    for mount in box.config["mounts"]:
        mount["options"] = [word for word in mount["options"] if word != "gid=5"]
    box.save()
    runtime = " ".join(map(str, [*box.runtime, "--root", box.state]))
    script = f"""
        {runtime} run --detach c >said 2>&1 </dev/null || {{ cat said; exit 1; }}
        {runtime} exec c sh -c 'id -u; head -c 3 /dev/zero | wc -c; hostname'
        {runtime} delete --force c
        {runtime} list --quiet
    """
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=box.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout.split(), done.stderr, done.returncode) == (["0", "3", "box"], "", 0)
