"""Our docker command beside the original, on the same dockerd: what both are asked, both answer alike.

The original is the machine's own docker where there is one, else Debian's, whose errors begin with other words.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.dockerd import BUSYBOX, AnyDockerd, Dockerd
from support.folders import short_folder
from support.ourdockerd import OurDockerd
from support.process import eventually
from support.session import normal, which_cli
from support.terminal import Terminal

BY_ITSELF = ("--network", "none")


class Ours:
    """``ours("ps")`` on the same daemon."""

    def __init__(self, docker: AnyDockerd, folder: Path) -> None:
        self._docker = docker
        self.cli = folder / "docker"
        body = (
            "import sys\nfrom longshore.docker.main import main\nsys.argv[0] = 'docker'\nsys.exit(main())\n"
        )
        self.cli.write_text(f"#!{sys.executable} -I\n{body}")
        self.cli.chmod(0o755)

    def __call__(self, *words: str | Path, check: bool = True, **options: Any) -> tuple[int, str, str]:
        done = self._docker.call([self.cli, *words], check=check, **options)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module", params=["Debian's dockerd", "our dockerd"])
def docker(request: pytest.FixtureRequest) -> Iterator[AnyDockerd]:
    cli = which_cli()
    made = Dockerd("real", cli=cli) if request.param == "Debian's dockerd" else OurDockerd(cli=cli)
    with made as docker:
        yield docker


@pytest.fixture(scope="module")
def ours(docker: AnyDockerd) -> Iterator[Ours]:
    with short_folder() as folder:
        yield Ours(docker, folder)


QUESTIONS = (
    ("ps", "--all"),
    ("ps", "--all", "--no-trunc"),
    ("ps", "--quiet", "--filter", "name=one"),
    ("ps", "--format", "table {{.Names}}\t{{.Image}}\t{{.State}}"),
    ("ps", "--format", '{{.ID}} {{.Label "tier"}} {{.Mounts}} {{.Networks}}'),
    ("images",),
    ("images", "--quiet", "--no-trunc"),
    ("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"),
    ("history", "--no-trunc", BUSYBOX),
    ("network", "ls", "--format", "{{.Name}} {{.Driver}}"),
    ("volume", "ls"),
    ("volume", "inspect", "vol", "--format", "{{.Name}} {{.Labels}}"),
    ("inspect", "one", "--format", "{{.Name}} {{.State.Status}} {{json .Config.Labels}} {{.Config.Env}}"),
    ("inspect", "one", "--format", "{{range .Mounts}}{{.Type}} {{.Destination}}{{end}} {{len .Mounts}}"),
    ("inspect", "nope"),
    ("image", "inspect", "nope"),
    ("logs", "one"),
    ("logs", "--tail", "1", "one"),
    ("logs", "nope"),
    ("top", "one", "-o", "pid,comm"),
    ("diff", "one"),
    ("port", "one"),
    ("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}"),
    ("info", "--format", "{{.Driver}} {{.NCPU}} {{.ContainersRunning}}"),
    ("exec", "one", "sh", "-c", "echo out; echo err >&2; exit 3"),
    ("exec", "nope", "true"),
    ("wait", "nope"),
    ("rm", "nope"),
    ("rmi", "nope"),
    ("stop", "nope"),
    ("start", "nope"),
    ("kill", "--signal", "NONSENSE", "one"),
    ("pull", "localhost:1/nothing"),
    ("tag", "nope", "x"),
    ("network", "rm", "bridge"),
    ("volume", "rm", "vol"),
)
# A line more of Debian's: its own exit status.
LESS = {("network", "rm", "bridge")}


@pytest.fixture(scope="module")
def filled(docker: AnyDockerd) -> Iterator[AnyDockerd]:
    docker("volume", "create", "--label", "a=b", "vol")
    script = "echo printed; echo complained >&2; touch /new; exec sleep 1000"
    flags = [
        "--name",
        "one",
        "--label",
        "tier=web",
        "-e",
        "A=1",
        "-v",
        "vol:/v",
        "--stop-timeout",
        "0",
        *BY_ITSELF,
    ]
    docker("run", "-d", *flags, BUSYBOX, "sh", "-c", script)
    docker("create", "--name", "two", *BY_ITSELF, BUSYBOX, "true")
    eventually(lambda: "complained" in (said := docker("logs", "one")).stderr and "printed" in said.stdout)
    eventually(lambda: "sleep" in docker("top", "one", "-o", "pid,comm").stdout)
    yield docker
    docker("rm", "-f", "one", "two")
    docker("volume", "rm", "vol")


@pytest.mark.parametrize("words", QUESTIONS, ids=" ".join)
def test_both_answer_alike(filled: AnyDockerd, ours: Ours, words: tuple[str, ...]) -> None:
    done = filled(*words, check=False)
    status, out, err = ours(*words, check=False)
    if words[0] == "diff":  # in no order
        out, done.stdout = ("\n".join(sorted(text.splitlines())) for text in (out, done.stdout))
    assert (status, timeless(out)) == (done.returncode, timeless(done.stdout))
    assert errors(err) == errors(done.stderr.replace("exit status 1\n", "") if words in LESS else done.stderr)


def timeless(text: str) -> str:
    return re.sub("(Less than|About) (?=<)", "", normal(text))


def errors(text: str) -> str:
    return re.sub(r"(?m)^(Error( response from daemon)?|error): |:latest$", "", normal(text).strip()).lower()


@pytest.mark.parametrize(("script", "status"), [("echo out; echo err >&2", 0), ("exit 7", 7), ("cat", 0)])
def test_run(docker: AnyDockerd, ours: Ours, script: str, status: int) -> None:
    words = ["run", "--rm", "-i", *BY_ITSELF, BUSYBOX, "sh", "-c", script]
    done = docker(*words, check=False, input="typed\n")
    assert ours(*words, check=False, input="typed\n") == (done.returncode, done.stdout, done.stderr)
    assert done.returncode == status


def test_a_program_that_is_not_there(ours: Ours) -> None:
    status, _, err = ours("run", "--rm", *BY_ITSELF, BUSYBOX, "nope", check=False)
    assert status == 127
    assert "executable file not found in $PATH" in err


def test_input_is_half_closed(ours: Ours) -> None:
    words = ["run", "--rm", "-i", *BY_ITSELF, BUSYBOX, "sh", "-c", "cat; sleep 0.3; echo end"]
    assert ours(*words, input="x\n") == (0, "x\nend\n", "")


def test_copying_both_ways(docker: AnyDockerd, ours: Ours, tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_text("text")
    (tmp_path / "tree/link").symlink_to("sub/file")
    docker("create", "--name", "box", *BY_ITSELF, BUSYBOX, "true")
    try:
        ours("cp", tmp_path / "tree", "box:/made")
        ours("cp", f"{tmp_path}/tree/.", "box:/tmp")
        ours("cp", "box:/made", tmp_path / "back")
        ours("cp", "box:/tmp/sub/file", tmp_path / "single")
        assert (tmp_path / "back/sub/file").read_text() == "text"
        assert os.readlink(tmp_path / "back/link") == "sub/file"
        assert (tmp_path / "single").read_text() == "text"
    finally:
        docker("rm", "box")


def test_build_save_load_commit(docker: AnyDockerd, ours: Ours, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f"FROM {BUSYBOX}\nCOPY . /c/\nRUN ls /c > /listing\nCMD cat /listing\n"
    )
    (context / "kept").write_text("x")
    (context / "left").write_text("x")
    (context / ".dockerignore").write_text("left\nDockerfile\n.dockerignore\n")
    environment = {**docker.environment(), "DOCKER_BUILDKIT": "0"}
    status, out, _ = ours("build", "-t", "made:1", "--network", "none", context, env=environment)
    assert status == 0 and "Successfully tagged made:1" in out
    listed = docker("run", "--rm", *BY_ITSELF, "made:1").stdout.split()
    assert "kept" in listed and "left" not in listed
    ours("save", "-o", tmp_path / "made.tar", "made:1")
    assert "Untagged: made:1" in ours("rmi", "made:1")[1]
    assert "Loaded image: made:1" in ours("load", "-i", tmp_path / "made.tar")[1]
    docker("run", "--name", "changed", *BY_ITSELF, "made:1", "touch", "/more")
    ours("commit", "-c", 'CMD ["ls", "/more"]', "changed", "made:2")
    assert ours("run", "--rm", *BY_ITSELF, "made:2")[1] == "/more\n"
    docker("rm", "changed")
    docker("rmi", "made:1", "made:2")


def test_events(docker: AnyDockerd, ours: Ours) -> None:
    docker("run", "--name", "seen", *BY_ITSELF, BUSYBOX, "true")
    docker("rm", "seen")
    flags = ["--since", "10m", "--until", "0s", "--filter", "container=seen", "--format", "{{.Action}}"]
    actions = ours("events", *flags)[1].split()
    assert [action for action in actions if action in ("create", "start", "die", "destroy")] == [
        "create",
        "start",
        "die",
        "destroy",
    ]
    lines = ours("events", *flags[:-2], "--format", "{{json .}}")[1].splitlines()
    assert json.loads(lines[0])["Type"] == "container"


def test_a_terminal_and_leaving_it(docker: AnyDockerd, ours: Ours) -> None:
    words: list[str | Path] = [ours.cli, "run", "-it", "--name", "tty", *BY_ITSELF, BUSYBOX, "sh"]
    terminal = Terminal(words, docker.environment())
    terminal.type("echo $((40 + 2))\n")
    terminal.until(r"42\r\n")
    terminal.type("\x10\x11")
    assert terminal.end() == 0
    assert docker.inspect("tty", ".State.Running") == "true"
    docker("rm", "-f", "tty")
