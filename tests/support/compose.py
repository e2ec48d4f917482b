"""The build contexts of docker-compose.test.yml: ``python -m support.compose FOLDER``, or ``make test-images``.

Each is a Dockerfile that copies a root file system into an empty image. The
root file systems are unpacked Debian packages, and for the daemon our own
wheel with what it needs.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from support import goparts

BASE = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "busybox-static")
PYTHON = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "python3.11"),
    *("libbz2-1.0", "libcrypt1", "libexpat1", "libffi8", "liblzma5", "libsqlite3-0", "libssl3", "libuuid1"),
    *(
        "libncursesw6",
        "libtinfo6",
        "libreadline8",
        "libnsl2",
        "libtirpc3",
        "libseccomp2",
        "mount",
        "libmount1",
    ),
    *("libblkid1", "libselinux1", "libpcre2-8-0", "libsmartcols1"),
)
SITE = "usr/lib/python3/dist-packages"
LAUNCHER = """#!/usr/bin/python3.11
import sys
from longshore.launcher import main
sys.exit(main())
"""
REGISTRY = """FROM scratch
COPY rootfs/ /
EXPOSE 5000
ENTRYPOINT ["/usr/bin/docker-registry", "serve", "/etc/docker/registry/config.yml"]
"""
CONTAINERD = """FROM scratch
COPY rootfs/ /
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["/usr/bin/longshore", "containerd", \\
            "--root", "/var/lib/longshore", "--state", "/run/longshore", \\
            "--address", "/run/longshore/containerd.sock"]
"""
# What the tests' client does, in the containerd's image. FIFOs lie where both containers have the same folder.
CLIENT = """#!/bin/sh
set -e
export CONTAINERD_ADDRESS=/run/longshore/containerd.sock
image=registry:5000/tools:1
until longshore ctr version > /dev/null 2>&1; do sleep 0.2; done
longshore image from-host busybox -t $image
longshore ctr images push --plain-http $image
longshore ctr images rm $image
longshore ctr images pull --plain-http $image
longshore ctr run --rm --fifo-dir /run/longshore/fifo $image test busybox echo a container in a container
longshore ctr images rm $image
echo the stack works
"""
REGISTRY_CONFIG = """version: 0.1
storage:
  filesystem:
    rootdirectory: /var/lib/registry
  delete:
    enabled: true
http:
  addr: :5000
"""


def root_folder(context: Path, packages: tuple[str, ...], dockerfile: str) -> Path:
    """A fresh context with `dockerfile` and the unpacked `packages`; returns its root file system."""
    shutil.rmtree(context, ignore_errors=True)
    root = context / "rootfs"
    root.mkdir(parents=True)
    shutil.copytree(unpacked(packages), root, symlinks=True, dirs_exist_ok=True)
    for folder in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / folder, ignore_errors=True)
    for folder in ("dev", "proc", "run", "sys", "tmp", "var/lib/registry", "var/lib/longshore"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "bin" / "sh").symlink_to("busybox")
    (context / "Dockerfile").write_text(dockerfile)
    return root


def registry(context: Path) -> None:
    root = root_folder(context, (*BASE, "docker-registry"), REGISTRY)
    (root / "etc/docker/registry").mkdir(parents=True, exist_ok=True)
    (root / "etc/docker/registry/config.yml").write_text(REGISTRY_CONFIG)


def containerd(context: Path) -> None:
    root = root_folder(context, (*BASE, *PYTHON), CONTAINERD)
    shutil.copytree(dependencies(), root / SITE, dirs_exist_ok=True)
    wheels = context / "wheels"
    build = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        str(wheels.resolve()),
    ]
    subprocess.run(build, check=True, cwd=goparts.PROJECT, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(root / SITE)
    shutil.rmtree(wheels)
    for name in ("longshore", "containerd-shim-longshore-v1"):
        script(root / "usr/bin" / name, LAUNCHER)
    script(root / "usr/bin/try-the-stack", CLIENT)


def unpacked(packages: tuple[str, ...]) -> Path:
    """A folder with these Debian packages, unpacked once."""

    def unpack(draft: Path) -> None:
        goparts.unpack(packages, draft)

    return once(f"root-{key(packages)}", unpack)


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def dependencies() -> Path:
    """A folder with what the wheel needs, installed once: of Debian's Python, 3.11, whatever runs this."""
    project = tomllib.loads((goparts.PROJECT / "pyproject.toml").read_text())["project"]
    wanted: list[str] = project["dependencies"]

    def install(draft: Path) -> None:
        choice = ["--python-version", "3.11", "--implementation", "cp", "--only-binary=:all:"]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *choice]
        subprocess.run([*pip, "--target", draft, *wanted], check=True)

    return once(f"site-{key(wanted)}", install)


def key(words: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]


def once(name: str, fill: Callable[[Path], None]) -> Path:
    """The folder `name` in the project's cache, filled by whoever asks first; whole or absent."""
    target = goparts.PROJECT / ".cache" / name
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
        fill(draft)
        draft.chmod(0o755)
        draft.rename(target)
    return target


def make(folder: Path) -> None:
    """Everything below `folder`; what was there is replaced."""
    (folder / "socket").mkdir(parents=True, exist_ok=True)
    registry(folder / "registry")
    containerd(folder / "containerd")


def main() -> int:
    folder = Path(sys.argv[1])
    make(folder)
    print(f"built {folder}/registry and {folder}/containerd")
    return 0


if __name__ == "__main__":
    sys.exit(main())
