"""The Go parts that we are measured against: Debian's packages, unpacked into the project's cache, never installed.

`path("ctr")` answers with an executable in ``<project>/.cache/goparts/bin``.
The first call for a part downloads its package with `apt-get download` and
unpacks it with `dpkg -x`; a file lock lets several test processes ask at once.
apt works on lists and a cache of our own, so an ordinary user can do this too
and the lists of the machine are left as they were.

What can't be had raises `Missing`; `support.require` turns that into a skip,
and in CI into a failure.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("LONGSHORE_GOPARTS", PROJECT / ".cache" / "goparts"))
LISTS_ARE_FRESH_FOR = 6 * 3600  # seconds


class Missing(Exception):
    """A Go part that this machine can't give us; the text says why."""


class Part(NamedTuple):
    """One executable: the package that holds it, where it lies there, and library packages a bare system lacks.

    `companions` are packages that it needs beside it whatever the system has;
    `environment` is what it needs to find them ("{root}" stands for the folder
    that everything is unpacked in), `words` come before its arguments, and
    `interpreter` runs it when it isn't the file's own first line that counts.
    """

    package: str
    file: str
    libraries: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    interpreter: str = ""


PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
COMPOSE_NEEDS = tuple(
    "python3-" + name
    for name in (
        *(
            "docker",
            "dockerpty",
            "docopt",
            "dotenv",
            "jsonschema",
            "requests",
            "texttable",
            "websocket",
            "yaml",
        ),
        *("distro", "cached-property", "pkg-resources", "distutils", "lib2to3", "six", "attr", "pyrsistent"),
        *("certifi", "charset-normalizer", "chardet", "idna", "urllib3"),
    )
)
IPTABLES = Part(
    "iptables",
    "usr/sbin/xtables-nft-multi",
    (
        "libnftnl11",
        "libxtables12",
        "libmnl0",
        "libip4tc2",
        "libip6tc2",
        "libnetfilter-conntrack3",
        "libnfnetlink0",
    ),
    environment=("XTABLES_LIBDIR=$(echo {root}/usr/lib/*/xtables)",),
)


PARTS = {
    "busybox": Part("busybox-static", "bin/busybox"),
    "cni-bridge": Part("containernetworking-plugins", "usr/lib/cni/bridge"),
    "conmon": Part("conmon", "usr/bin/conmon", ("libglib2.0-0", "libsystemd0", "libpcre2-8-0")),
    "containerd": Part("containerd", "usr/bin/containerd"),
    "containerd-shim-runc-v2": Part("containerd", "usr/bin/containerd-shim-runc-v2"),
    "crun": Part("crun", "usr/bin/crun", ("libyajl2", "libseccomp2", "libcap2")),
    "ctr": Part("containerd", "usr/bin/ctr"),
    "docker": Part("docker.io", "usr/bin/docker"),
    "docker-compose": Part(
        "docker-compose",
        "usr/bin/docker-compose",
        companions=COMPOSE_NEEDS,
        # It imports 600 modules for each call: they may be compiled once.
        environment=(
            "PYTHONPATH={root}/usr/lib/python3/dist-packages:{root}/usr/lib/python3.11",
            "PYTHONDONTWRITEBYTECODE=",
        ),
        interpreter=PYTHON,
    ),
    # It runs in containers, with nothing of the host beside it.
    "docker-init": Part("tini", "usr/bin/tini-static"),
    "docker-proxy": Part("docker.io", "usr/sbin/docker-proxy"),
    "docker-registry": Part("docker-registry", "usr/bin/docker-registry"),
    "dockerd": Part("docker.io", "usr/sbin/dockerd", ("libdevmapper1.02.1",)),
    "ip6tables": IPTABLES._replace(words=("ip6tables",)),
    "ip6tables-restore": IPTABLES._replace(words=("ip6tables-restore",)),
    "ip6tables-save": IPTABLES._replace(words=("ip6tables-save",)),
    "h2load": Part(
        "nghttp2-client", "usr/bin/h2load", ("libev4", "libjansson4", "libjemalloc2", "libnghttp2-14")
    ),
    "iptables": IPTABLES._replace(words=("iptables",)),
    "iptables-restore": IPTABLES._replace(words=("iptables-restore",)),
    "iptables-save": IPTABLES._replace(words=("iptables-save",)),
    "podman": Part(
        "podman",
        "usr/bin/podman",
        ("libsubid4", "libgpgme11", "libdevmapper1.02.1", "libseccomp2", "libassuan0", "libgpg-error0"),
        ("golang-github-containers-common", "golang-github-containers-image"),
    ),
    "runc": Part("runc", "usr/sbin/runc", ("libseccomp2",)),
    "skopeo": Part(
        "skopeo", "usr/bin/skopeo", ("libgpgme11", "libdevmapper1.02.1", "libassuan0", "libgpg-error0")
    ),
    "tini": Part("tini", "usr/bin/tini"),
}


def path(name: str) -> Path:
    """The executable of the part `name`, fetched when it isn't there yet. Raises Missing."""
    link = CACHE / "bin" / name
    if not link.exists():
        with _locked():
            if not link.exists():
                _provide(name, link)
    return link


def environment(base: dict[str, str] | None = None) -> dict[str, str]:
    """An environment whose PATH starts with the Go parts, as a real containerd finds its shim and runc there."""
    environ = dict(os.environ if base is None else base)
    environ["PATH"] = f"{CACHE / 'bin'}:{environ.get('PATH', os.defpath)}"
    return environ


def _provide(name: str, link: Path) -> None:
    part = PARTS[name]
    for package in (part.package, *part.companions):
        _unpack(package)
    target = CACHE / "root" / part.file
    if not target.exists():
        raise Missing(f"{name}: package {part.package} holds no /{part.file}")
    link.parent.mkdir(parents=True, exist_ok=True)
    lacks_libraries = _lacks_libraries(target)
    if lacks_libraries:
        for package in part.libraries:
            _unpack(package)
    if lacks_libraries or part.environment or part.words or part.interpreter:
        _write_wrapper(link, target, part)
    else:
        link.unlink(missing_ok=True)  # it may lead to where another version of this list had it
        link.symlink_to(target)


def _lacks_libraries(executable: Path) -> bool:
    listing = subprocess.run(["ldd", executable], capture_output=True, text=True, check=False)
    return "not found" in listing.stdout


def library_folders() -> list[str]:
    """The folders with shared libraries among what is unpacked so far."""
    with _locked():
        return _library_folders()


def _library_folders() -> list[str]:
    return sorted({str(library.parent) for library in (CACHE / "root").rglob("lib*.so*")})


def _write_wrapper(link: Path, target: Path, part: Part) -> None:
    environment = [f"LD_LIBRARY_PATH={':'.join(_library_folders())}"] if _lacks_libraries(target) else []
    environment += [pair.format(root=CACHE / "root") for pair in part.environment]
    command = [word for word in (part.interpreter, str(target), *part.words) if word]
    script = f'#!/bin/sh\n{" ".join(environment)} exec {" ".join(command)} "$@"\n'
    draft = link.with_name(f".{link.name}")
    draft.write_text(script)
    draft.chmod(0o755)
    draft.rename(link)


def unpack(packages: Iterable[str], target: Path) -> None:
    """Unpack Debian packages into `target` as dpkg -x does: no scripts run, nothing is installed. Raises Missing."""
    with _locked():
        _extract(list(packages), target)


def _unpack(package: str) -> None:
    stamp = CACHE / "packages" / package
    if stamp.exists():
        return
    _extract([package], CACHE / "root")
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.touch()


def _extract(packages: list[str], target: Path) -> None:
    """All in one call of apt, which reads its lists each time."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise Missing(f"{packages[0]}: no apt-get and dpkg here, the Go parts come from Debian's packages")
    _refresh_lists()
    downloads = CACHE / "downloads"
    shutil.rmtree(downloads, ignore_errors=True)
    downloads.mkdir(parents=True)
    try:
        _apt("download", *packages, cwd=downloads)
    except Missing:  # a list that is hours old may name what the archive has replaced since
        _refresh_lists(older_than=0)
        _apt("download", *packages, cwd=downloads)
    for archive in downloads.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive, target], check=True, capture_output=True)
    shutil.rmtree(downloads)


def _refresh_lists(older_than: float = LISTS_ARE_FRESH_FOR) -> None:
    stamp = CACHE / "apt" / "updated"
    if stamp.exists() and time.time() - stamp.stat().st_mtime < older_than:
        return
    (CACHE / "apt" / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (CACHE / "apt" / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    _apt("update", cwd=CACHE)
    stamp.touch()


def _apt(verb: str, *arguments: str, cwd: Path) -> None:
    options = {
        "Dir::State": CACHE / "apt",
        "Dir::State::lists": CACHE / "apt" / "lists",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": CACHE / "apt" / "cache",
        # The download is done by an unprivileged user otherwise, who need not reach our folder.
        "APT::Sandbox::User": "root",
        "Acquire::Retries": 3,
    }
    flags = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    done = subprocess.run(
        ["apt-get", "-q", *flags, verb, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Missing(f"apt-get {' '.join((verb, *arguments))}: {done.stderr.strip()}")


@contextmanager
def _locked() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
