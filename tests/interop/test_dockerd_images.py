"""The docker CLI about images: the same commands to our dockerd and to Debian's, and the same answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from support import images
from support.dockerd import AnyDockerd, Dockerd
from support.ourdockerd import OurDockerd
from support.registry import Registry


class Side(NamedTuple):
    """A dockerd, and two registries on its host: an open one and one that wants a password."""

    docker: AnyDockerd
    registry: Registry
    private: Registry

    def say(self, line: str) -> str:
        """What the CLI prints, without what differs from run to run."""
        places = {
            "R": self.registry.address,
            "P": self.private.address,
            "F": str(self.docker.folder),
        }
        done = self.docker(*line.format(**places).split(), check=False)
        text = f"{done.returncode}\n{done.stdout}{done.stderr}"
        for name, place in places.items():
            text = text.replace(place, f"<{name}>")
        for pattern, name in (
            (r"[0-9a-f]{64}", "<digest>"),
            (r"\b[0-9a-f]{12}\b", "<id>"),
            (r"\d+(\.\d+)?[kM]?B\b", "<size>"),
            ("https?:", "http:"),
            ("<id>: Verifying Checksum\\n", ""),  # not said when it takes no time
            ("Invalid filter", "invalid filter"),
            (r"size: \d+", "size: <size>"),
            (r"(Less than a|About a|\d+) (second|minute)s? ago", "<ago>"),
        ):
            text = re.sub(pattern, name, text)
        text = re.sub(" {2,}", "  ", text).strip()
        # Images made in one second are in any order there.
        return "\n".join(sorted(text.splitlines())) if line.startswith("images") else text

    def begin(self) -> None:
        """One image, `base`."""
        for name in filter(None, self.docker("images", "--all", "--quiet").stdout.split()):
            self.docker("rmi", "--force", name, check=False)
        layer = self.docker.folder / "l.tar"
        self.docker("import", "--message", "m", "--change", 'CMD ["sh"]', layer, "base")


@pytest.fixture(scope="module")
def sides() -> Iterator[list[Side]]:
    found = []
    with ExitStack() as stack:
        for kind in (OurDockerd, Dockerd):
            docker = stack.enter_context(kind())
            (docker.folder / "l.tar").write_bytes(images.busybox_layer())
            doors = [
                stack.enter_context(Registry(inside=docker.host, htpasswd=lock)) for lock in (False, True)
            ]
            found.append(Side(docker, *doors))
        yield found


SESSIONS = {
    "push and pull": """
        tag base {R}/a/box:1
        push {R}/a/box:1
        push {R}/a/box:1
        push {R}/a/box:2
        push {R}/none
        image inspect --format {{{{.RepoTags}}}}{{{{.RepoDigests}}}} {R}/a/box:1
        tag base {R}/b/box:1
        push {R}/b/box:1
        images --digests {R}/a/box
        rmi base
        rmi {R}/b/box:1
        rmi {R}/a/box:1
        pull {R}/a/box:1
        pull {R}/a/box:1
        image inspect --format {{{{.RepoTags}}}}{{{{.RepoDigests}}}}{{{{.Config.Cmd}}}}{{{{.Comment}}}} {R}/a/box:1
        tag {R}/a/box:1 base
        pull --all-tags {R}/b/box
        pull {R}/a/box:9
        pull {R}/nothing/at/all
        pull {R}/a/box@sha256:0000000000000000000000000000000000000000000000000000000000000000
        rmi {R}/a/box:1 {R}/b/box:1
    """,
    "a password": """
        pull {P}/box
        tag base {P}/box
        push {P}/box
        login -u anna -p wrong {P}
        login -u anna -p secret {P}
        push {P}/box
        rmi {P}/box
        pull {P}/box
        rmi {P}/box
        logout {P}
        pull {P}/box
    """,
    "archives": """
        save -o {F}/s.tar base
        tag base second:2
        save -o {F}/t.tar base second
        rmi second:2
        rmi base
        load -i {F}/t.tar
        load --quiet --input {F}/s.tar
        images --format {{{{.Repository}}}}:{{{{.Tag}}}}
        rmi second:2
        save nothing
    """,
    "names": """
        tag base sha256
        tag base a/b/c:d
        tag nothing x
        tag base x@sha256:0000000000000000000000000000000000000000000000000000000000000000
        rmi a/b/c
        rmi a/b/c:d
        rmi sha256 nothing base:9
        history --format {{{{.CreatedBy}}}}{{{{.Comment}}}} base
        history nothing
        inspect --type image nothing
        images --filter dangling=maybe
        images --filter before=nothing
        images --filter reference=b* --filter label=none
        images --filter reference=ba*:la* --format {{{{.Tag}}}}
        image prune --force
        image prune --force --all --filter label=none
        image prune --force --filter until=nonsense
    """,
    "in use": """
        create --name one base
        rmi base
        tag base another
        rmi another
        rmi --force base
        images --filter dangling=true --format {{{{.Repository}}}}
        rm one
        image prune --force
        import {F}/l.tar base
        images --all --format {{{{.Repository}}}}
    """,
}


@pytest.mark.parametrize("name", SESSIONS)
def test_the_same_answers(sides: list[Side], name: str) -> None:
    for side in sides:
        side.begin()
    for line in filter(None, map(str.strip, SESSIONS[name].splitlines())):
        ours, theirs = (side.say(line) for side in sides)
        assert ours == theirs, line


def test_each_reads_what_the_other_saved(sides: list[Side], tmp_path: Path) -> None:
    for side in sides:
        side.begin()
    for writer, reader in (sides, sides[::-1]):
        writer.docker("tag", "base", "moved:1")
        writer.docker("save", "--output", tmp_path / "x.tar", "moved:1")
        assert reader.docker("load", "--input", tmp_path / "x.tar").stdout == "Loaded image: moved:1\n"
        ids = {side.docker("inspect", "--format", "{{.Id}}", "moved:1").stdout for side in (writer, reader)}
        assert len(ids) == 1
        assert reader.docker("run", "--rm", "--network=none", "moved:1", "/bin/echo", "yes").stdout == "yes\n"
        for side in (writer, reader):
            side.docker("rmi", "moved:1")
