"""Our own test environment, docker-compose.test.yml, on our own dockerd: a container in a container."""

from __future__ import annotations

import shutil
from pathlib import Path

from support import compose, goparts, require
from support.ourdockerd import PARTS, OurDockerd


def test_the_test_environment_comes_up(short_tmp: Path) -> None:
    """A registry, our containerd in a privileged container, and a client that pushes, pulls and runs."""
    require.root()
    require.go(*PARTS, "docker-compose")
    compose.make(short_tmp / ".cache" / "compose")
    file = short_tmp / "docker-compose.test.yml"
    shutil.copyfile(goparts.PROJECT / file.name, file)
    with OurDockerd() as docker:
        environment = docker.environment() | {"DOCKER_BUILDKIT": "0"}
        command: list[str | Path] = [goparts.path("docker-compose"), "--no-ansi", "--file", file]
        docker.call([*command, "build"], env=environment, timeout=180)
        try:
            done = docker.call([*command, "up", "--exit-code-from", "client"], env=environment, timeout=120)
            assert "a container in a container\n" in done.stdout
            assert "the stack works\n" in done.stdout
        finally:
            docker.call([*command, "down", "--volumes", "--timeout", "0"], env=environment, check=False)
        assert docker("network", "ls", "--quiet", "--filter", "type=custom").stdout == ""
