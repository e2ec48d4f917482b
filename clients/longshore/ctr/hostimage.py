"""``longshore image from-host CMD... -t NAME``: an image made of the host's own commands.

Takes the commands, the loader and the shared libraries that they need, and
writes an OCI image archive, with no registry, no network and no container
involved. The same files give the same digests: entries are sorted, owned by
root and dated 1970, and the layer isn't compressed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import shutil
import stat
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, NamedTuple

import click

from longshore.api.errors import Error, NotFound, Unavailable
from longshore.client import defaults, oci, references
from longshore.ctr import elf, hostpython

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EPOCH = "1970-01-01T00:00:00Z"

SKELETON = {
    "dev": 0o755,
    "etc": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "var": 0o755,
    "var/tmp": 0o1777,
}

# Not the host's: an image should not say who has accounts here.
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}

BLOCK = 1 << 20


class Entry(NamedTuple):
    """One file of the layer: a directory, a link (`target`), bytes, or a copy of the host's `source`."""

    mode: int
    target: str = ""
    source: str = ""
    data: bytes = b""


class Plan:
    """What goes into the layer, by path without the leading slash. Nothing is copied yet."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {path: Entry(stat.S_IFDIR | mode) for path, mode in SKELETON.items()}
        self.library_folders: list[str] = []
        self._extra = elf.configured_paths()
        self._seen: set[str] = set()
        for path, text in FILES.items():
            self.add_data(path, text.encode())
        for path in ("/bin", "/sbin", "/lib"):  # merged into /usr on most hosts: scripts say #!/bin/sh
            if os.path.islink(path):
                self.entries.setdefault(self._follow(path).lstrip("/"), Entry(stat.S_IFDIR | 0o755))

    def add_data(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self._parents(path)
        self.entries[path] = Entry(stat.S_IFREG | mode, data=data)

    def add_command(self, command: str) -> str:
        """A command by name (found on PATH) or path; answers its path. Raises NotFound."""
        path = shutil.which(command) if "/" not in command else command
        if path is None or not os.path.isfile(path):
            raise NotFound(f"command {command!r} on this host: not found")
        path = os.path.abspath(path)
        self.add_file(path)
        return path

    def add_plain(self, path: str) -> None:
        """A file as it is, and the links that lead to it; nothing that it may need."""
        real = self._follow(path)
        if os.path.isfile(real):  # no socket, no device, no link into nothing
            mode = stat.S_IMODE(os.stat(real).st_mode)
            self.entries[real.lstrip("/")] = Entry(stat.S_IFREG | mode, source=real)

    def add_file(self, path: str) -> None:
        """A file, the links that lead to it, and, of a program, what it needs."""
        real = self._follow(path)
        if real in self._seen:
            return
        self._seen.add(real)
        self.entries[real.lstrip("/")] = Entry(
            stat.S_IFREG | stat.S_IMODE(os.stat(real).st_mode), source=real
        )
        program = elf.read(real)
        if program is None:
            self._script(real)
            return
        if program.interpreter:
            self.add_file(program.interpreter)
        for name in program.needed:
            self._library(name, program, real)

    def _library(self, name: str, program: elf.Elf, user: str) -> None:
        found = elf.find_library(name, program, os.path.dirname(user), self._extra)
        if found is None:
            raise NotFound(f"library {name} of {user}: not found")
        self.add_file(found)
        folder = os.path.dirname(found)
        if folder in self._extra and folder not in elf.library_paths() and folder not in self.library_folders:
            self.library_folders.append(folder)

    def _script(self, path: str) -> None:
        with open(path, "rb") as file:
            line = file.readline(256)
        if line.startswith(b"#!"):
            for word in line[2:].decode("utf-8", "replace").split()[:1]:
                self.add_command(word)

    def _follow(self, path: str) -> str:
        """Add every symbolic link on the way, folders included; answers the real path."""
        done, rest, hops = "", [part for part in path.split("/") if part], 0
        while rest:
            part = rest.pop(0)
            if part == "..":
                done = posixpath.dirname(done)
                continue
            here = f"{done}/{part}"
            if not os.path.islink(here):
                done = here
                continue
            hops += 1
            if hops > 40:
                raise NotFound(f"{path}: too many links: not found")
            target = os.readlink(here)
            self._parents(here.lstrip("/"))
            self.entries[here.lstrip("/")] = Entry(stat.S_IFLNK | 0o777, target=target)
            done = "" if target.startswith("/") else done
            rest = [part for part in target.split("/") if part and part != "."] + rest
        self._parents(done.lstrip("/"))
        return done

    def _parents(self, path: str) -> None:
        folder = posixpath.dirname(path)
        while folder and folder not in self.entries:
            self.entries[folder] = Entry(stat.S_IFDIR | 0o755)
            folder = posixpath.dirname(folder)


def write_layer(plan: Plan, layer: IO[bytes]) -> None:
    """The layer as a tar stream: parents before children, in the order of their names."""
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(plan.entries):
            _write_entry(tar, path, plan.entries[path])


def _write_entry(tar: tarfile.TarFile, path: str, entry: Entry) -> None:
    header = tarfile.TarInfo(path)
    header.mode = stat.S_IMODE(entry.mode)
    if stat.S_ISDIR(entry.mode):
        header.type = tarfile.DIRTYPE
        tar.addfile(header)
    elif stat.S_ISLNK(entry.mode):
        header.type, header.linkname = tarfile.SYMTYPE, entry.target
        tar.addfile(header)
    elif entry.source:
        with open(entry.source, "rb") as file:
            header.size = os.fstat(file.fileno()).st_size
            tar.addfile(header, file)
    else:
        header.size = len(entry.data)
        tar.addfile(header, io.BytesIO(entry.data))


def image_config(
    plan: Plan, command: Sequence[str], diff_id: str, path: Sequence[str] = ()
) -> dict[str, object]:
    environment = [f"PATH={':'.join([*path, DEFAULT_PATH])}"]
    if plan.library_folders:
        environment.append(f"LD_LIBRARY_PATH={':'.join(plan.library_folders)}")
    platform = oci.host_platform()
    return {
        "created": EPOCH,
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {"Env": environment, "Cmd": list(command), "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": EPOCH, "created_by": "longshore image from-host"}],
    }


class Built(NamedTuple):
    """`digest` is the manifest's: the image's identity."""

    name: str
    digest: str
    layer_size: int
    files: int


def build(
    commands: Sequence[str],
    name: str,
    archive: IO[bytes],
    *,
    files: Iterable[str] = (),
    python: str = "",
) -> Built:
    """Write the archive of an image with these commands (and further files) under a full name.

    `python` is an interpreter to pack with its library and packages; without
    commands it is what the image runs.

    Raises NotFound (a command or a library), InvalidArgument (the name).
    """
    name = references.normalize(name)
    plan = Plan()
    paths = [plan.add_command(command) for command in commands]
    for path in files:
        plan.add_file(os.path.abspath(path))
    if python:
        found = hostpython.ask(python)
        hostpython.add_python(plan, found)
        paths.append(found.executable)
    shell = next(
        (path for path in paths if posixpath.basename(path) in ("sh", "bash", "dash", "busybox")), paths[0]
    )
    folders = [posixpath.dirname(found.executable)] if python else []
    with tempfile.TemporaryFile() as layer:
        write_layer(plan, layer)
        size = layer.tell()
        digest = _digest(layer)
        blobs = [_Blob(oci.CONFIG, json.dumps(image_config(plan, [shell], digest, folders)).encode())]
        manifest = {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "config": blobs[0].descriptor(),
            "layers": [{"mediaType": oci.LAYER, "digest": digest, "size": size}],
        }
        blobs.append(_Blob(oci.MANIFEST, json.dumps(manifest).encode()))
        _write_archive(archive, name, blobs, digest, size, layer)
    return Built(name, blobs[1].digest, size, len(plan.entries))


class _Blob(NamedTuple):
    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    def descriptor(self) -> dict[str, object]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


def _digest(file: IO[bytes]) -> str:
    file.seek(0)
    total = hashlib.sha256()
    for block in _blocks(file):
        total.update(block)
    return f"sha256:{total.hexdigest()}"


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _write_archive(
    archive: IO[bytes], name: str, blobs: Sequence[_Blob], digest: str, size: int, layer: IO[bytes]
) -> None:
    """An OCI layout as tar. The index comes last, as a reader of a pipe may expect blobs before it or after."""
    annotations = {oci.NAME_ANNOTATION: name, oci.REF_ANNOTATION: references.parse(name).tag}
    index = {
        "schemaVersion": 2,
        "mediaType": oci.INDEX,
        "manifests": [{**blobs[-1].descriptor(), "annotations": annotations}],
    }
    with tarfile.open(fileobj=archive, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        _file(tar, "oci-layout", io.BytesIO(b'{"imageLayoutVersion":"1.0.0"}'), 30)
        layer.seek(0)
        _file(tar, f"blobs/{digest.replace(':', '/')}", layer, size)
        for blob in blobs:
            _file(tar, f"blobs/{blob.digest.replace(':', '/')}", io.BytesIO(blob.data), len(blob.data))
        data = json.dumps(index).encode()
        _file(tar, "index.json", io.BytesIO(data), len(data))


def _file(tar: tarfile.TarFile, name: str, data: IO[bytes], size: int) -> None:
    header = tarfile.TarInfo(name)
    header.size = size
    header.mode = 0o644
    tar.addfile(header, data)


@click.group()
def image() -> None:
    """Make images without a registry."""


@image.command("from-host")
@click.argument("commands", nargs=-1, metavar="CMD...")
@click.option("-t", "--tag", required=True, help="The image's name.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write the archive here (- for standard output); without it, import the image into containerd.",
)
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="A further file of the host.",
)
@click.option(
    "--python",
    "with_python",
    is_flag=True,
    help="Also the Python that runs this, with its installed packages.",
)
@click.option(
    "-a", "--address", envvar="CONTAINERD_ADDRESS", default=None, help="containerd's socket, to import into."
)
@click.option(
    "-n", "--namespace", envvar="CONTAINERD_NAMESPACE", default=None, help="The namespace to import into."
)
def from_host(
    commands: tuple[str, ...],
    tag: str,
    output: str | None,
    files: tuple[str, ...],
    with_python: bool,
    address: str | None,
    namespace: str | None,
) -> None:
    """Pack commands of this host, with their libraries, into an image."""
    if not commands and not with_python:
        raise click.UsageError("name a command to pack, or say --python")
    python = sys.executable if with_python else ""
    try:
        if output is not None:
            with click.open_file(output, "wb") as archive:
                built = build(commands, tag, archive, files=files, python=python)
        else:
            with tempfile.TemporaryFile() as archive:
                built = build(commands, tag, archive, files=files, python=python)
                archive.seek(0)
                _import(archive, address, namespace)
    except Unavailable:
        raise click.ClickException(
            "containerd doesn't answer: start it (longshore up), name its socket with --address or "
            "CONTAINERD_ADDRESS, or write the archive with --output"
        ) from None
    except Error as error:
        raise click.ClickException(error.message) from None
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{built.name} {built.digest} ({built.files} files, {built.layer_size / 1e6:.1f} MB)", err=True
    )


def _import(archive: IO[bytes], address: str | None, namespace: str | None) -> None:
    from longshore.client import Client

    with Client(address, namespace) as client:
        for found in client.images.import_archive(archive):
            found.unpack(defaults.SNAPSHOTTER)


def main() -> int:
    image.main(prog_name="longshore image")
    return 0


if __name__ == "__main__":
    sys.exit(main())
