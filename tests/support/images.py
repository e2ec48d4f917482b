"""Images made on the spot from Debian's static busybox: nothing is pulled from a registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support import goparts

BUSYBOX = "docker.io/library/busybox:latest"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ndaemon:x:1:\nadm:x:4:nobody\nnogroup:x:65534:\n",
    "etc/hostname": "busybox\n",
}
FOLDERS = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "sys": 0o755,
    "tmp": 0o1777,
}


def applets() -> list[str]:
    listing = subprocess.run([goparts.path("busybox"), "--list"], capture_output=True, text=True, check=True)
    return [name for name in listing.stdout.split() if name != "busybox"]


def busybox_rootfs(folder: Path) -> Path:
    """A root file system in `folder`/rootfs: bin/busybox, a link per applet, users, /tmp of mode 1777."""
    root = folder / "rootfs"
    for name, mode in FOLDERS.items():
        (root / name).mkdir(parents=True)
        (root / name).chmod(mode)
    for name, text in FILES.items():
        (root / name).write_text(text)
    shutil.copyfile(goparts.path("busybox"), root / "bin" / "busybox")
    (root / "bin" / "busybox").chmod(0o755)
    for applet in applets():
        (root / "bin" / applet).symlink_to("busybox")
    return root


def busybox_layer() -> bytes:
    """The same tree as an uncompressed, reproducible tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode in FOLDERS.items():
            _add(tar, name, tarfile.DIRTYPE, mode=mode)
        for name, text in FILES.items():
            _add(tar, name, tarfile.REGTYPE, data=text.encode())
        _add(tar, "bin/busybox", tarfile.REGTYPE, mode=0o755, data=goparts.path("busybox").read_bytes())
        for applet in applets():
            _add(tar, f"bin/{applet}", tarfile.SYMTYPE, mode=0o777, link="busybox")
    return buffer.getvalue()


def _add(
    tar: tarfile.TarFile, name: str, kind: bytes, *, mode: int = 0o644, data: bytes = b"", link: str = ""
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname, entry.size = kind, mode, link, len(data)
    tar.addfile(entry, io.BytesIO(data) if data else None)


def busybox_archive(folder: Path, name: str = BUSYBOX) -> Path:
    """An OCI archive `folder`/busybox.tar with one gzipped layer, tagged `name`."""
    return oci_archive(folder / "busybox.tar", name, [busybox_layer()])


def oci_archive(
    target: Path,
    name: str,
    layers: Iterable[bytes],
    *,
    config: dict[str, Any] | None = None,
    compress: bool = True,
) -> Path:
    """Write an OCI archive of uncompressed tar `layers` to `target`; `config` is merged into the image's `config`."""
    blobs: dict[str, bytes] = {}
    descriptors, diff_ids = [], []
    kind = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if compress else "")
    for layer in layers:
        diff_ids.append(_digest(layer))
        descriptors.append(_blob(blobs, kind, gzip.compress(layer, 1, mtime=0) if compress else layer))
    image = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "WorkingDir": "/", **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _blob(blobs, "application/vnd.oci.image.config.v1+json", _json(image)),
        "layers": descriptors,
    }
    top = _blob(blobs, "application/vnd.oci.image.manifest.v1+json", _json(manifest))
    top["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [top]}
    with tarfile.open(target, "w") as tar:
        _add(tar, "oci-layout", tarfile.REGTYPE, data=_json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", tarfile.REGTYPE, data=_json(index))
        for digest, data in blobs.items():
            _add(tar, f"blobs/sha256/{digest.partition(':')[2]}", tarfile.REGTYPE, data=data)
    return target


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(blobs: dict[str, bytes], media_type: str, data: bytes) -> dict[str, Any]:
    digest = _digest(data)
    blobs[digest] = data
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
