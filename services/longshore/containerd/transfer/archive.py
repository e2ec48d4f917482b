"""Reading image archives (OCI layouts, ``docker save``): a tar stream in, blobs in the store, names out.

The tar is read once, front to back, in a thread of its own: that thread asks
the event loop for more bytes and for writes to the store, and waits for each.
Small files that explain the blobs are kept until the end.
"""

from __future__ import annotations

import asyncio
import io
import json
import posixpath
import tarfile
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Final, NamedTuple, TypeVar, cast

import zstandard

from longshore.api import errors
from longshore.containerd import rpc
from longshore.containerd.content.store import Writer
from longshore.containerd.streaming.bytestream import ByteReader
from longshore.containerd.transfer import oci
from longshore.containerd.transfer.shelf import CHUNK, Shelf
from longshore.registry.documents import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    Descriptor,
    descriptor,
    digest_of,
)
from longshore.registry.errors import BadContent

T = TypeVar("T")

SMALL: Final = 8 << 20  # bytes: larger is no manifest of anything
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_LINKS: Final = 8  # hops of links to a layer


class Named(NamedTuple):
    """An image in an archive; `name` is "" when it has none, or a bare tag."""

    name: str
    target: Descriptor


class Contents(NamedTuple):
    """What an archive had: `whole` is the index of all of it."""

    whole: Descriptor
    images: Sequence[Named]


async def read_archive(shelf: Shelf, stream: ByteReader) -> Contents:
    """Put all blobs of the archive into the store. Raises InvalidArgument for what is no archive, or damaged."""
    loop = asyncio.get_running_loop()
    archive = _Archive(shelf, _Bridge(loop), stream)
    with _thread() as executor:
        try:
            await loop.run_in_executor(executor, archive.read)
        except asyncio.CancelledError:
            archive.bridge.broken = True
            raise
    try:
        return await archive.contents()
    except (BadContent, KeyError, TypeError, AttributeError) as error:
        text = error.message if isinstance(error, BadContent) else "its description makes no sense"
        raise errors.InvalidArgument(f"damaged image archive: {text}: invalid argument") from None


class _Executor(ThreadPoolExecutor):
    """Doesn't wait at the end: the loop, which the thread waits for, must go on."""

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=False)


def _thread() -> _Executor:
    return _Executor(1, "import")


class _Bridge:
    """From the thread into the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.broken = False

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        if self.broken:
            work.close()
            raise errors.Canceled("import was given up: context canceled")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _File(io.RawIOBase):
    """The stream as a file for the thread."""

    def __init__(self, bridge: _Bridge, stream: ByteReader) -> None:
        self._bridge, self._stream = bridge, stream
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def peek(self, size: int) -> bytes:
        while len(self._rest) < size and (more := self._bridge.call(self._stream.read())):
            self._rest = memoryview(bytes(self._rest) + more)
        return bytes(self._rest[:size])

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(self._bridge.call(self._stream.read()))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class _Archive:
    def __init__(self, shelf: Shelf, bridge: _Bridge, stream: ByteReader) -> None:
        self._shelf, self.bridge, self._stream = shelf, bridge, stream
        self._files: dict[str, bytes] = {}
        self._stored: dict[str, Descriptor] = {}
        self._links: dict[str, str] = {}

    # -- in the thread --------------------------------------------------------------------------------------

    def read(self) -> None:
        try:
            with self._open() as tar:
                for member in tar:
                    self._take(tar, member)
            while self._stream_rest():
                pass
        except (tarfile.TarError, EOFError, OSError, zstandard.ZstdError) as error:
            raise errors.InvalidArgument(f"damaged image archive: {error}: invalid argument") from None

    def _open(self) -> tarfile.TarFile:
        file = _File(self.bridge, self._stream)
        if file.peek(4) == _ZSTD:
            plain = zstandard.ZstdDecompressor().stream_reader(
                cast("IO[bytes]", file), read_across_frames=True
            )
            return tarfile.open(fileobj=cast("IO[bytes]", plain), mode="r|")
        return tarfile.open(fileobj=io.BufferedReader(file, CHUNK), mode="r|*")

    def _stream_rest(self) -> bytes:
        """What comes after the tar's end is read away, so that the sender can finish."""
        return self.bridge.call(self._stream.read())

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = posixpath.normpath(member.name)
        if member.issym() or member.islnk():
            base = posixpath.dirname(name) if member.issym() else ""
            self._links[name] = posixpath.normpath(posixpath.join(base, member.linkname))
            return
        data = tar.extractfile(member) if member.isreg() else None
        if data is None:
            return
        parts = name.split("/")
        if parts[0] == "blobs" and len(parts) == 3:
            self._store(name, data, member.size, ":".join(parts[1:]))
        elif (name.endswith(".json") and member.size <= SMALL) or name in ("oci-layout", "repositories"):
            self._files[name] = data.read()
        elif name.endswith(".tar"):
            self._store(name, data, member.size, "")

    def _store(self, name: str, data: IO[bytes], size: int, expected: str) -> None:
        """One file as a blob; `expected` is what its name promises, if anything."""
        ref = f"import-{id(self):x}-{expected or name}"
        try:
            digest = self._write(ref, data, size, expected)
        except errors.AlreadyExists:
            digest = expected
        except BaseException:
            if not self.bridge.broken:
                self.bridge.call(self._shelf.abort(ref))
            raise
        self._stored[name] = Descriptor(oci.LAYER, digest, size)

    def _write(self, ref: str, data: IO[bytes], size: int, expected: str) -> str:
        opening = self._shelf.writer(ref, size, expected)
        writer: Writer = self.bridge.call(_enter(opening))
        try:
            while writer.offset < size and (block := data.read(CHUNK)):
                self.bridge.call(rpc.shielded(writer.write(block)))
            digest = expected or self.bridge.call(writer.digest())
            try:
                self.bridge.call(rpc.shielded(writer.commit(size, digest, {})))
            except errors.AlreadyExists:
                pass
            return digest
        finally:
            self._close(writer)

    def _close(self, writer: Writer) -> None:
        """Also when the transfer was given up: a locked ref would stay so."""
        broken, self.bridge.broken = self.bridge.broken, False
        try:
            self.bridge.call(writer.close())
        finally:
            self.bridge.broken = broken

    # -- on the loop ----------------------------------------------------------------------------------------

    async def contents(self) -> Contents:
        if "index.json" in self._files and "oci-layout" in self._files:
            data = self._files["index.json"]
            entries = _json(data, "index.json").get("manifests") or []
            images = [Named(_name(entry), descriptor(entry)) for entry in entries]
        elif "manifest.json" in self._files:
            images = await self._docker()
            data = _dumps(
                {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [_plain(i) for i in images]}
            )
        else:
            raise errors.InvalidArgument(
                "not an image archive: no index.json, no manifest.json: invalid argument"
            )
        index = Descriptor(OCI_INDEX, digest_of(data), len(data))
        await self._shelf.put(oci.ingest_ref(index), data, index.digest, {})
        return Contents(index, images)

    async def _docker(self) -> list[Named]:
        """Layers are uncompressed tars, the manifest is ours to write."""
        images: list[Named] = []
        for entry in _json(self._files["manifest.json"], "manifest.json"):
            config_data = self._files.get(entry["Config"])
            config = await self._config(entry["Config"], config_data)
            layers = [self._layer(posixpath.normpath(path)) for path in entry["Layers"]]
            manifest = {
                "schemaVersion": 2,
                "mediaType": DOCKER_MANIFEST,
                "config": {"mediaType": oci.DOCKER_CONFIG, "digest": config.digest, "size": config.size},
                "layers": [
                    {"mediaType": oci.DOCKER_LAYER, "digest": layer.digest, "size": layer.size}
                    for layer in layers
                ],
            }
            data = _dumps(manifest)
            target = Descriptor(DOCKER_MANIFEST, digest_of(data), len(data))
            await self._shelf.put(oci.ingest_ref(target), data, target.digest, {})
            images += [Named(str(tag), target) for tag in entry.get("RepoTags") or [""]]
        return images

    async def _config(self, path: str, data: bytes | None) -> Descriptor:
        if data is None:
            found = self._stored.get(path)
            if found is None:
                raise BadContent(f"it has no {path}")
            return found
        blob = Descriptor(oci.DOCKER_CONFIG, digest_of(data), len(data))
        await self._shelf.put(oci.ingest_ref(blob), data, blob.digest, {})
        return blob

    def _layer(self, path: str) -> Descriptor:
        for _ in range(_LINKS):  # links in old archives stand for layers that occur twice
            if path in self._stored:
                return self._stored[path]
            path = self._links.get(path, "")
        raise BadContent("it lacks a layer that its manifest.json names")


async def _enter(opening: Any) -> Writer:
    writer: Writer = await opening.__aenter__()
    return writer


def _json(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise errors.InvalidArgument(f"archive has a bad {what}: {error}: invalid argument") from None


def _dumps(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _name(entry: dict[str, Any]) -> str:
    annotations = entry.get("annotations") or {}
    return str(annotations.get(oci.NAME_ANNOTATION) or annotations.get(oci.REF_ANNOTATION) or "")


def _plain(image: Named) -> dict[str, Any]:
    target = image.target
    entry: dict[str, Any] = {"mediaType": target.media_type, "digest": target.digest, "size": target.size}
    return {**entry, "annotations": {oci.NAME_ANNOTATION: image.name}} if image.name else entry
