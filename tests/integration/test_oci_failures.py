"""A start that fails leaves nothing: no state, cgroup, mount or process, whatever failed and where."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.bundles import Bundle
from support.process import eventually

FOREVER = "while :; do sleep 1000; done"
Break = Callable[[Bundle], None]


def hook(script: str, **more: object) -> list[dict[str, object]]:
    return [{"path": "/bin/sh", "args": ["sh", "-c", script], **more}]


def missing_bind(box: Bundle) -> None:
    source = str(box.folder / "missing")  # not a name at the host's root, that somebody may have made
    box.config["mounts"].append({"destination": "/x", "type": "bind", "source": source, "options": ["bind"]})


def late_mount(box: Bundle) -> None:
    box.config["mounts"].append({"destination": "/x", "type": "nofs", "source": "x"})


def early_hook(box: Bundle) -> None:
    box.config["hooks"] = {"createRuntime": hook("exit 3")}


def inner_hook(box: Bundle) -> None:
    box.config["hooks"] = {"createContainer": hook("exit 3")}


def slow_hook(box: Bundle) -> None:
    box.config["hooks"] = {"prestart": hook("sleep 1000", timeout=1)}


def missing_program(box: Bundle) -> None:
    box.config["process"]["args"] = ["missing"]


def missing_root(box: Bundle) -> None:
    box.config["root"]["path"] = "missing"


def bad_limit(box: Bundle) -> None:
    box.config["linux"]["resources"]["cpu"] = {"cpus": "900"}


def bad_unified(box: Bundle) -> None:
    box.config["linux"]["resources"]["memory"] = {"limit": 1 << 20, "swap": 1}


def bad_sysctl(box: Bundle) -> None:
    box.config["linux"]["sysctl"] = {"net.no.such.key": "1"}


def bad_namespace(box: Bundle) -> None:
    box.config["linux"]["namespaces"].append({"type": "user", "path": "/proc/self/ns/net"})


def bad_filter(box: Bundle) -> None:
    box.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]}


def bad_score(box: Bundle) -> None:
    box.config["process"]["oomScoreAdj"] = 5000


def bad_json(box: Bundle) -> None:
    box.save = lambda: (box.folder / "config.json").write_text("{")  # type: ignore[method-assign,assignment]


def bad_pid_file(box: Bundle) -> None:
    pass


BREAKS: list[Break] = [
    *(missing_bind, late_mount, early_hook, inner_hook, slow_hook, missing_program, missing_root, bad_limit),
    *(bad_unified, bad_sysctl, bad_namespace, bad_filter, bad_score, bad_json, bad_pid_file),
]


@pytest.mark.parametrize("spoil", BREAKS, ids=lambda spoil: spoil.__name__)
def test_nothing_is_left(box: Bundle, spoil: Break) -> None:
    spoil(box)
    more = ["--pid-file", "/missing/folder/pid"] if spoil is bad_pid_file else []
    log = box.folder / "log.json"
    done = box.call("--log", log, "--log-format", "json", "create", *more, "c")
    assert done.returncode == 1
    assert '"level":"error"' in log.read_text().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not box.state.exists() or not list(box.state.iterdir())
    assert not box.cgroup("memory").exists()
    assert not box.cgroup("memory").parent.exists()


def test_a_failing_start_hook_is_an_error_of_start(box: Bundle) -> None:
    box.config["hooks"] = {"startContainer": hook("echo why >&2; exit 9")}
    box.create(FOREVER)
    done = box.call("start", "c")
    assert done.returncode == 1
    assert "startContainer hook #0: exit status 9" in done.stderr
    assert "why" in done.stderr
    eventually(lambda: box.inspect()["status"] == "stopped")
    box.do("delete", "c")


def test_hooks_in_their_order_with_their_state(box: Bundle) -> None:
    order = box.folder / "order"
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    box.config["annotations"] = {"a": "b"}
    box.config["hooks"] = {kind: hook(f"echo {kind} $(cat) >>{order}") for kind in kinds}
    box.config["hooks"]["startContainer"] = hook("echo startContainer $(cat) >>/order")
    pid = box.create(FOREVER)
    box.do("start", "c")
    box.do("delete", "--force", "c")
    seen = dict(line.split(" ", 1) for line in order.read_text().splitlines())
    assert tuple(seen) == kinds
    assert f'"pid":{pid}' in seen["prestart"]
    assert '"status":"creating"' in seen["createRuntime"]
    assert '"status":"running"' in seen["poststart"]
    assert '"status":"stopped"' in seen["poststop"]
    assert all(
        '"annotations":{"a":"b"}' in text and f'"bundle":"{box.folder}"' in text for text in seen.values()
    )
    assert (box.root / "order").read_text().startswith("startContainer {")


def test_killed_while_creating(box: Bundle) -> None:
    """The runtime dies by SIGKILL while a hook runs; delete --force removes all that it had made."""
    box.config["hooks"] = {"createRuntime": hook(f"echo x >{box.folder}/there; exec sleep 1000")}
    box.shell(FOREVER)
    box.save()
    command = [*box.runtime, "--root", box.state, "create", "c"]
    with subprocess.Popen(command, cwd=box.folder, stderr=subprocess.DEVNULL) as creating:
        eventually((box.folder / "there").exists)
        children = Path(f"/proc/{creating.pid}/task/{creating.pid}/children").read_text().split()
        # Not init, which ends by itself when its runtime is gone.
        (sleeping,) = (pid for pid in children if "python" not in Path(f"/proc/{pid}/comm").read_text())
        creating.kill()
    os.kill(int(sleeping), 9)
    box.do("delete", "--force", "c")
    assert not box.cgroup("memory").exists()


def test_memory_limit_of_docker_s_minimum_suffices(box: Bundle) -> None:
    box.config["linux"]["resources"]["memory"] = {"limit": 6 << 20}
    assert box.run("echo fits").stdout == "fits\n"


def test_memory_limit_too_low_says_so(box: Bundle) -> None:
    box.config["linux"]["resources"]["memory"] = {"limit": 1 << 16}
    done = box.run("echo fits")
    assert done.returncode == 1
    assert "memory limit too low" in done.stderr


def test_state_of_another_boot_is_stopped(box: Bundle) -> None:
    box.create(FOREVER)
    file = box.state / "c" / "state.json"
    saved = file.read_text()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    file.write_text(saved.replace(boot, "0" * len(boot)))
    assert box.inspect()["status"] == "stopped"
    assert "container not running" in box.call("kill", "c", "KILL").stderr
    file.write_text(saved)
    assert box.inspect()["status"] == "created"


def test_a_foreign_cgroup_parent_is_kept(box: Bundle) -> None:
    parent = Path("/sys/fs/cgroup/pids") / box.name
    parent.mkdir()
    try:
        box.run("true")
        assert parent.exists()
    finally:
        parent.rmdir()
