"""cp and export: archives from and into containers."""

from __future__ import annotations

import base64
import io
import json
import os
import posixpath
import sys
import tarfile
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import IO, Any, cast

import click

from longshore.docker.api import APIError, Client, Failure
from longshore.docker.app import App

BLOCK = 1 << 16


@click.command()
@click.option("--archive", "-a", is_flag=True)
@click.option("--follow-link", "-L", is_flag=True)
@click.option("--quiet", "-q", is_flag=True)
@click.argument("source")
@click.argument("target")
@click.pass_obj
def cp(app: App, /, source: str, target: str, archive: bool, follow_link: bool, quiet: bool) -> None:
    """Copy files/folders between a container and the local filesystem."""
    (box, inside), (other, there) = split(source), split(target)
    if box and other:
        raise Failure("copying between containers is not supported")
    if box:
        _out(app.client, box, inside, target, follow_link)
    elif other:
        _into(app.client, source, other, there, archive, follow_link)
    else:
        raise Failure("must specify at least one container source")


def split(text: str) -> tuple[str, str]:
    """ "container:path", or "" and a path of ours."""
    if text.startswith((".", "/")):
        return "", text
    box, colon, path = text.partition(":")
    return (box, path) if colon else ("", text)


def _absolute(path: str) -> str:
    kept = "/" if path.endswith(("/", "/.")) and path.strip("/.") else ""
    dot = "." if path.endswith("/.") else ""
    return posixpath.normpath("/" + path.lstrip("/")) + kept + dot


def _stat(answer: HTTPResponse) -> dict[str, Any]:
    return cast(
        "dict[str, Any]",
        json.loads(base64.b64decode(answer.getheader("X-Docker-Container-Path-Stat") or "e30=")),
    )


def _stat_of(client: Client, box: str, path: str) -> dict[str, Any]:
    with client.send("HEAD", f"/containers/{box}/archive", {"path": path}) as answer:
        return _stat(answer)


_DIRECTORY = 1 << 31
_LINK = 1 << 27


def _out(client: Client, box: str, path: str, target: str, follow: bool) -> None:
    path = _absolute(path)
    if follow:
        found = _stat_of(client, box, path)
        if found["mode"] & _LINK:
            path = posixpath.join(posixpath.dirname(path), found["linkTarget"])
    try:
        answer = client.send("GET", f"/containers/{box}/archive", {"path": path})
    except APIError as error:
        if error.code == 404 and "No such container" not in error.message:
            raise APIError(404, f"Could not find the file {path} in container {box}") from None
        raise
    with answer:
        if target == "-":
            while block := answer.read(BLOCK):
                sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
            return
        _unpack(cast("IO[bytes]", answer), _stat(answer), path, target)


def _unpack(archive: IO[bytes], found: dict[str, Any], path: str, target: str) -> None:
    """A directory goes into a target that exists, becomes one that doesn't; "path/." means its content."""
    name = found["name"]
    place = Path(target)
    directory = bool(found["mode"] & _DIRECTORY)
    if target.endswith("/") and not place.is_dir() and not directory:
        raise Failure(f'destination directory "{target}" must be a directory that exists')
    if place.is_dir():
        base, rename = place, ("" if path.endswith("/.") else name)
    else:
        if not place.parent.is_dir():
            raise Failure(f'invalid output path: directory "{place.parent}" does not exist')
        base, rename = place.parent, place.name
    with tarfile.open(fileobj=archive, mode="r|") as tar:
        for entry in tar:
            _, slash, rest = entry.name.partition("/")
            entry.name = posixpath.join(rename, rest) if slash or rename else rename or "."
            if entry.islnk():
                entry.linkname = posixpath.join(rename, entry.linkname.partition("/")[2])
            _extract(tar, entry, base)


def _extract(tar: tarfile.TarFile, entry: tarfile.TarInfo, base: Path) -> None:
    # Nothing may be written through a link that came with the archive.
    parent = (base / entry.name).parent.resolve()
    if not parent.is_relative_to(base.resolve()) or entry.ischr() or entry.isblk():
        raise Failure(f"refused to write {entry.name}: outside of {base}")
    destination = base / entry.name
    if not entry.isdir() and destination.is_symlink():
        destination.unlink()
    tar.extract(entry, base, set_attrs=True, numeric_owner=True, filter="fully_trusted")


def _into(client: Client, source: str, box: str, path: str, archive: bool, follow: bool) -> None:
    path = _absolute(path)
    if source == "-":
        _put(client, box, path, iter(lambda: sys.stdin.buffer.read(BLOCK), b""), archive)
        return
    if not os.path.lexists(source):
        raise Failure(f"lstat {os.path.abspath(source)}: no such file or directory")
    local = os.path.realpath(source) if follow else source
    try:
        found = _stat_of(client, box, path)
        if found["mode"] & _LINK:
            found = _stat_of(client, box, posixpath.join(posixpath.dirname(path), found["linkTarget"]))
    except APIError as error:
        if error.code != 404:
            raise
        client.get(f"/containers/{box}/json")  # it may be the container that isn't there
        found = {}
    folder, rename = _destination(local, source, path, found)
    _put(client, box, folder, _packed(local, rename), archive)


def _destination(local: str, source: str, path: str, found: dict[str, Any]) -> tuple[str, str]:
    """The folder to unpack in, and the name to have there."""
    directory = os.path.isdir(local)
    content = directory and source.endswith("/.")
    if found.get("mode", 0) & _DIRECTORY:
        return path, "" if content else os.path.basename(os.path.abspath(local))
    if found and directory:
        raise Failure("cannot copy directory")
    if not found and path.endswith("/") and not directory:
        raise Failure(f"no such directory: {path}")
    parent, name = posixpath.split(path.rstrip("/"))
    return parent or "/", name


def _packed(source: str, name: str) -> Iterator[bytes]:
    """A tar of it, block by block; "" as a name is the content of a directory."""
    buffer = _Buffer()
    with tarfile.open(fileobj=buffer, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for path, inside in _walk(source, name):
            info = tar.gettarinfo(path, inside)
            if info is None:
                continue  # a socket
            if info.isreg():
                with open(path, "rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
            yield buffer.take()
    yield buffer.take()


class _Buffer(io.RawIOBase):
    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data, self._parts = b"".join(self._parts), []
        return data


def _walk(source: str, name: str) -> Iterator[tuple[str, str]]:
    if name:
        yield source, name
    if os.path.isdir(source) and not os.path.islink(source):
        for child in sorted(os.listdir(source)):
            yield from _walk(os.path.join(source, child), posixpath.join(name, child))


def _put(client: Client, box: str, path: str, blocks: Iterator[bytes], archive: bool) -> None:
    query = {"path": path, "noOverwriteDirNonDir": "true", "copyUIDGID": "true" if archive else None}
    parts = (block for block in blocks if block)  # an empty chunk would be the end
    headers = {"Content-Type": "application/x-tar"}
    client.send("PUT", f"/containers/{box}/archive", query, parts, headers).close()


@click.command()
@click.option("--output", "-o", default="")
@click.argument("container")
@click.pass_obj
def export(app: App, /, container: str, output: str) -> None:
    """Export a container's filesystem as a tar archive."""
    save_to(app.client, f"/containers/{container}/export", None, output)


def save_to(client: Client, path: str, query: Any, output: str) -> None:
    """A stream into a file, or to a stdout that is no terminal."""
    if not output and sys.stdout.isatty():
        raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if output and not os.path.isdir(os.path.dirname(output) or "."):
        raise Failure(f'invalid output path: directory "{os.path.dirname(output)}" does not exist')
    with (
        client.send("GET", path, query) as answer,
        open(output, "wb") if output else sys.stdout.buffer as target,
    ):
        while block := answer.read(BLOCK):
            target.write(block)
