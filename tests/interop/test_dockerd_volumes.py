"""The same commands about volumes on Debian's dockerd and on ours: what the CLI says must be the same."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from support import images, require
from support.dockerd import PARTS, AnyDockerd, Dockerd
from support.ourdockerd import PARTS as OUR_PARTS
from support.ourdockerd import OurDockerd

pytestmark = [pytest.mark.interop, pytest.mark.root, pytest.mark.slow]

# One line, one command; {image} has files at /srv, owned by 12:34.
LOOKING = r"""
volume create
volume create --label a=1 --label b data
volume create data
volume create --driver local --opt type=tmpfs --opt device=tmpfs --opt o=size=1m,uid=7 memory
volume create other
volume ls --format {{.Name}}:{{.Driver}}:{{.Scope}}:{{.Labels}} --filter name=dat
volume ls -q --filter label=a
volume ls -q --filter label=a=2
volume ls -q --filter driver=local --filter name=^data$
volume ls -q --filter driver=none
volume ls -q --filter dangling=maybe
volume ls -q --filter nonsense=1
volume inspect data memory --format {{.Name}},{{.Driver}},{{.Labels}},{{.Options}},{{.Scope}},{{.Mountpoint}}
volume inspect none
volume create a/b
volume create a
volume create --driver none x1
volume create --opt nonsense=1 x2
volume create --opt device=/x x3
volume create --opt o=bind x4
volume create --opt size=1m x5
volume rm none
volume rm -f none
"""

USING = r"""
run --rm -v data:/srv {image} stat -c %n:%a:%u:%g /srv /srv/file /srv/sub/link
run --rm -v data:/other {image} sh -c "ls -R /other; echo new > /other/new"
run --rm -v data:/srv:ro {image} sh -c "cat /srv/new; touch /srv/x"
run --rm -v empty:/srv:nocopy {image} ls /srv
run --rm --mount type=volume,src=plain,dst=/srv,volume-nocopy {image} ls /srv
run --rm --mount type=volume,src=labelled,dst=/srv,volume-label=k=v {image} true
volume inspect labelled --format {{.Labels}}
run --rm -v memory:/m {image} sh -c "stat -c %u /m; df -P /m | tail -1 | cut -d' ' -f1,2; echo x > /m/x"
run --rm -v memory:/m {image} ls /m
run -d --name one -v data:/srv -v /anonymous -v memory:/m {image} sleep 1000
volume rm data
volume rm -f data
run --rm -v memory:/m {image} sh -c "touch /m/shared"
exec one ls /m
run --rm --volumes-from one {image} sh -c "ls -d /srv/file /anonymous /m/shared"
run --rm --volumes-from one:ro {image} touch /srv/no
volume ls -q --filter dangling=false
inspect one --format {{range .Mounts}}{{.Type}}:{{.Name}}:{{.Destination}}:{{.Driver}}:{{.Mode}}:{{.RW}};{{end}}
rm -f -v one
volume ls -q
volume create --opt type=none --opt device=/no/such --opt o=bind broken
run --rm -v broken:/b {image} true
create --name two -v broken:/b -v v2:/v {image} true
start two
rm two
volume prune -f
volume ls -q
run --rm -v a/b:/x {image} true
run --rm -v x:/y:z,nonsense {image} true
run --rm -v /x {image} sh -c "touch /x/y"
volume ls -q
volume rm memory broken
"""

NAME = re.compile(r"\b[0-9a-f]{64}\b")


@pytest.fixture(scope="module")
def daemons() -> Iterator[tuple[AnyDockerd, AnyDockerd]]:
    require.root()
    require.go(*PARTS, *OUR_PARTS)
    with Dockerd() as theirs, OurDockerd() as ours:
        for docker in (theirs, ours):
            layer = docker.folder / "layer.tar"
            layer.write_bytes(images.busybox_layer())
            docker("import", "-c", "ENV PATH=/bin", layer, "base:1")
            fill = "mkdir -p /srv/sub; echo content > /srv/file; ln -s ../file /srv/sub/link"
            docker(
                "run",
                "--name",
                "maker",
                "base:1",
                "sh",
                "-c",
                f"{fill}; chown -R 12:34 /srv; chmod 1770 /srv",
            )
            docker("commit", "maker", "filled:1")
            docker("rm", "maker")
        yield theirs, ours


def answers(docker: AnyDockerd, commands: str) -> list[str]:
    found = []
    for line in commands.strip().splitlines():
        words = [word.replace("{image}", "filled:1") for word in _words(line)]
        done = docker(*words, check=False)
        # 20.10 begins this message with a capital.
        text = NAME.sub("ID", done.stdout + done.stderr).replace("Invalid filter", "invalid filter")
        # The CLI's own log: whether it says that it no longer waits depends on who was faster.
        text = re.sub(r"(?m)^time=.*context canceled.*\n", "", text)
        lines = (
            sorted(text.splitlines())
            if words[:2] in (["volume", "ls"], ["volume", "prune"])
            else text.splitlines()
        )
        found.append("\n".join([f"$ {line}", *lines, f"status {done.returncode}"]))
    return found


def _words(line: str) -> list[str]:
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', line)]


def test_what_is_said(daemons: tuple[AnyDockerd, AnyDockerd]) -> None:
    theirs, ours = (answers(docker, LOOKING + USING.lstrip()) for docker in daemons)
    different = [f"{a}\n--- ours:\n{b}" for a, b in zip(theirs, ours, strict=True) if a != b]
    assert not different, "\n\n".join(different)
