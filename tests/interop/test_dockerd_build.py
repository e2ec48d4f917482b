"""Dockerfiles built by Debian's dockerd and by ours with its classic builder: words, configurations and trees."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support import goparts, images
from support.buildcases import BASE, CASES, Case
from support.dockerd import AnyDockerd, Dockerd
from support.ourdockerd import OurDockerd

pytestmark = [pytest.mark.interop, pytest.mark.root, pytest.mark.slow]

# The runtime's, not the image's.
RUNTIME = re.compile(r"(dev|proc|sys)(/.*)?|\.dockerenv|etc/(hosts|hostname|resolv\.conf|mtab)|etc|\.")
ID = re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b")


class Result(NamedTuple):
    status: int
    output: str
    config: dict[str, Any]
    history: list[str]
    tree: dict[str, tuple[Any, ...]]


@pytest.fixture(scope="module")
def daemons() -> Iterator[tuple[AnyDockerd, AnyDockerd]]:
    with Dockerd() as theirs, OurDockerd() as ours:
        for docker in (theirs, ours):
            layer = docker.folder / "layer.tar"
            layer.write_bytes(images.busybox_layer())
            docker("import", "-c", "ENV PATH=/bin", "-c", 'CMD ["sh"]', layer, BASE)
        yield theirs, ours


def build(docker: AnyDockerd, case: Case, folder: Path) -> Result:
    command: list[str | Path] = [goparts.path("docker"), "build", "-t", case.name, *case.flags, "."]
    environment = {**docker.environment(), "DOCKER_BUILDKIT": "0"}
    done = docker.call(command, check=False, env=environment, cwd=folder)
    output = normal(done.stdout + done.stderr)
    if done.returncode:
        return Result(done.returncode, output, {}, [], {})
    (image,) = json.loads(docker("image", "inspect", case.name).stdout)
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", case.name).stdout.splitlines()
    return Result(0, output, config(image), [normal(line) for line in history], tree(docker, case.name))


def normal(text: str) -> str:
    """Without IDs, and without the borders of what a command's errors were read in.

    20.10 forgets a space behind the owner that COPY names.
    """
    text = re.sub(r"(--chown=[^ ]*?) ?((file|dir):)", r"\1 \2", text)
    return ID.sub("ID", text).replace("\x1b[0m\x1b[91m", "")


def config(image: dict[str, Any]) -> dict[str, Any]:
    """What the image says of containers; absent and empty are one."""
    found = {
        name: value for name, value in image["Config"].items() if value and name not in ("Image", "Hostname")
    }
    return {**found, "Author": image["Author"], "Os": image["Os"], "Architecture": image["Architecture"]}


def tree(docker: AnyDockerd, name: str) -> dict[str, tuple[Any, ...]]:
    """By path: type, mode, owner, link and content, and the time of what came from the context."""
    container = docker("create", name, "x").stdout.strip()
    try:
        archive = docker.folder / "export.tar"
        docker("export", "-o", archive, container)
    finally:
        docker("rm", "-v", container)
    found: dict[str, tuple[Any, ...]] = {}
    with tarfile.open(archive) as tar:
        for entry in tar:
            if RUNTIME.fullmatch(entry.name):
                continue
            content = tar.extractfile(entry) if entry.isreg() else None
            digest = hashlib.sha256(content.read()).hexdigest()[:8] if content else ""
            made = entry.mtime if entry.mtime < 1_700_000_000 else "now"
            found[entry.name] = (
                *(entry.type, oct(entry.mode & 0o7777), entry.uid, entry.gid, entry.linkname),
                *(digest, made),
            )
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_image(daemons: tuple[AnyDockerd, AnyDockerd], case: Case, tmp_path: Path) -> None:
    case.write(tmp_path / "context")
    theirs, ours = (build(docker, case, tmp_path / "context") for docker in daemons)
    assert ours.output == theirs.output
    assert ours.status == theirs.status
    assert ours.config == theirs.config
    assert ours.history == theirs.history
    assert ours.tree == theirs.tree
