"""Debian's docker-registry, the oracle among registries, on loopback; and images for it."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import zstandard

from longshore.registry.client import Options
from longshore.registry.client import Registry as Door
from longshore.registry.documents import Descriptor, digest_of
from longshore.registry.platforms import Platform
from support import goparts, parallel, process
from support.folders import short_folder
from support.host import PrivateHost, child_of

# bcrypt of "secret" for the user "anna": docker-registry takes no other hash.
HTPASSWD = "anna:$2b$05$pOlS5pxjmEdKHramLUnJuul2W3qMu1ecwgBJPidrrNIVV0vpMu61m\n"
USER, PASSWORD = "anna", "secret"

_PORTS = itertools.count(random.randrange(1000))


class Registry:
    """``with Registry() as registry: ctr("images", "push", "--plain-http", registry.name("box:1"))``.

    `tls` is (certificate file, key file); `clients` a CA whose client
    certificates are demanded; `htpasswd` protects it for `USER`; `token` is
    docker-registry's own table for a token server. With `inside` it runs in
    that private host, and only who is there too can reach it.
    """

    def __init__(
        self,
        *,
        tls: tuple[Path, Path] | None = None,
        clients: Path | None = None,
        htpasswd: bool = False,
        token: Mapping[str, Any] | None = None,
        inside: PrivateHost | None = None,
    ) -> None:
        self._tls, self._clients, self._htpasswd, self._token = tls, clients, htpasswd, token
        self._inside = inside
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Registry:
        with self._stack:
            self.folder = self._stack.enter_context(short_folder("reg-"))
            self.log = self.folder / "log"
            self.port = free_port()
            self.address = f"localhost:{self.port}"
            (self.folder / "config.yml").write_text(json.dumps(self._config()))  # JSON is YAML
            self.start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None:
                error.add_note(f"the registry's log ends with:\n{process.tail(self.log, 20)}")
            self.kill()

    def name(self, rest: str) -> str:
        return f"{self.address}/{rest}"

    def start(self) -> None:
        """Start it, first or again, on the same port."""
        command: list[str | Path] = [goparts.path("docker-registry"), "serve", self.folder / "config.yml"]
        popen = self._inside.popen if self._inside else subprocess.Popen
        with open(self.log, "ab") as log:
            self._process = popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
            )
        process.eventually(self._listens, what="docker-registry listens")

    def kill(self) -> None:
        """SIGKILL: connections break off. Nothing if it isn't running."""
        if self._process is not None:
            pid = child_of(self._process.pid) if self._inside else self._process.pid
            os.kill(pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise process.NotReady(process.tail(self.log))
        if self._inside:
            return "listening on" in self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _config(self) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": f"127.0.0.1:{self.port}", "secret": "of this test"}
        if self._tls:
            http["tls"] = {"certificate": str(self._tls[0]), "key": str(self._tls[1])}
            if self._clients:
                http["tls"]["clientcas"] = [str(self._clients)]
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "store")}},
            "http": http,
        }
        if self._htpasswd:
            (self.folder / "htpasswd").write_text(HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(self.folder / "htpasswd")}}
        if self._token:
            config["auth"] = {"token": dict(self._token)}
        return config


def free_port() -> int:
    """A TCP port of loopback that nobody listens on just now.

    Below those that the kernel gives to clients, each worker of a test run has
    its own thousand, and none comes twice before all have been there: what is
    found free stays so until it is used.
    """
    first = 20000 + 1000 * (parallel.number() % 12)
    while True:
        port = first + next(_PORTS) % 1000
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def skopeo(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Debian's skopeo, without TLS and policy."""
    line: Sequence[str | Path] = [goparts.path("skopeo"), "--insecure-policy", *words]
    return subprocess.run(line, check=check, capture_output=True, text=True, timeout=120)


# -- images for it --------------------------------------------------------------------------------------------

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"


class Style(NamedTuple):
    """Media types, and how layers are packed."""

    manifest: str
    config: str
    layer: str
    pack: Callable[[bytes], bytes]


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


STYLES = {
    "oci": Style(f"{OCI}.manifest.v1+json", f"{OCI}.config.v1+json", f"{OCI}.layer.v1.tar+gzip", _gzip),
    "plain": Style(f"{OCI}.manifest.v1+json", f"{OCI}.config.v1+json", f"{OCI}.layer.v1.tar", bytes),
    "zstd": Style(f"{OCI}.manifest.v1+json", f"{OCI}.config.v1+json", f"{OCI}.layer.v1.tar+zstd", _zstd),
    "docker": Style(
        f"{DOCKER}.distribution.manifest.v2+json",
        f"{DOCKER}.container.image.v1+json",
        f"{DOCKER}.image.rootfs.diff.tar.gzip",
        _gzip,
    ),
}


async def publish(
    name: str,
    layers: Sequence[bytes],
    *,
    style: str = "oci",
    platform: str = "linux/amd64",
    options: Options | None = None,
) -> Descriptor:
    """Push an image of uncompressed tar `layers` with our own library; the descriptor of its manifest."""
    kinds = STYLES[style]
    operating_system, architecture, *variant = platform.split("/")
    image = {
        "os": operating_system,
        "architecture": architecture,
        **({"variant": variant[0]} if variant else {}),
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
    }
    async with Door(options or Options()) as door:
        pusher = door.repository(name).pusher()

        async def send(media_type: str, data: bytes) -> dict[str, Any]:
            async def blocks(offset: int) -> AsyncIterator[bytes]:
                yield data[offset:]

            blob = Descriptor(media_type, digest_of(data), len(data))
            await pusher.blob(blob, blocks)
            return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}

        manifest = {
            "schemaVersion": 2,
            "mediaType": kinds.manifest,
            "config": await send(kinds.config, json.dumps(image).encode()),
            "layers": [await send(kinds.layer, kinds.pack(layer)) for layer in layers],
        }
        data = json.dumps(manifest).encode()
        found = Descriptor(kinds.manifest, digest_of(data), len(data), Platform(*platform.split("/")))
        await pusher.manifest(found, data, door.repository(name).reference.tag)
        return found


async def publish_index(name: str, manifests: Sequence[Descriptor]) -> Descriptor:
    """Push an index of manifests that the repository has."""
    entries = [
        {
            "mediaType": found.media_type,
            "digest": found.digest,
            "size": found.size,
            "platform": found.platform._asdict() if found.platform else {},
        }
        for found in manifests
    ]
    kind = f"{OCI}.index.v1+json"
    data = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    found = Descriptor(kind, digest_of(data), len(data))
    async with Door() as door:
        repository = door.repository(name)
        await repository.pusher().manifest(found, data, repository.reference.tag)
    return found
