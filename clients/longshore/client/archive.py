"""Image archives: OCI layouts and ``docker save`` files, as tar streams.

An archive may come through a pipe, so it is read once, front to back: blobs
go into the content store as they pass, and the small files that explain them
(index.json, manifest.json, oci-layout) are kept until the end.
"""

from __future__ import annotations

import asyncio
import io
import json
import posixpath
import secrets
import tarfile
import tempfile
from collections.abc import AsyncIterator, Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from longshore.api.errors import DataLoss, InvalidArgument, NotFound
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.client import oci, references
from longshore.client.content import CHUNK, digest_of
from longshore.client.sources import Named
from longshore.registry import shapes

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient
    from longshore.client.images import Image

SMALL = 8 << 20  # bytes: larger is no manifest of anything
KEPT = 64 << 20  # bytes of all the documents of an archive together: they are held in memory
GZIP_MAGIC = b"\x1f\x8b"
LAYOUT = {"imageLayoutVersion": "1.0.0"}


class ArchiveSource:
    """A `Source` that stores every blob while it resolves."""

    def __init__(self, client: AsyncClient, archive: IO[bytes]) -> None:
        self._client = client
        self._archive = archive
        self._files: dict[str, bytes] = {}
        self._stored: dict[str, Descriptor] = {}
        self._links: dict[str, str] = {}
        self._kept = 0
        self._token = secrets.token_hex(
            4
        )  # of two imports of one archive at once neither waits for the other
        self.index: Descriptor | None = None

    def open(self, blob: Descriptor, offset: int = 0) -> AsyncIterator[bytes]:
        raise NotFound(f"blob {blob.digest} in the archive: not found")

    async def resolve(self) -> list[Named]:
        try:
            tar = await asyncio.to_thread(tarfile.open, fileobj=self._archive, mode="r|*")
        except tarfile.TarError as error:
            raise InvalidArgument(f"not an image archive: {error}: invalid argument") from None
        with tar:
            try:
                while (member := await asyncio.to_thread(tar.next)) is not None:
                    await self._take(tar, member)
            except (tarfile.TarError, EOFError, OSError) as error:
                raise InvalidArgument(f"damaged image archive: {error}: invalid argument") from None
        if "index.json" in self._files and "oci-layout" in self._files:
            return await self._oci()
        if "manifest.json" in self._files:
            return await self._docker()
        raise InvalidArgument("not an image archive: no index.json, no manifest.json: invalid argument")

    async def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = member.name.removeprefix("./")
        if member.issym() or member.islnk():
            self._links[name] = _target(name, member)
            return
        data = tar.extractfile(member) if member.isreg() else None
        if data is None:
            return
        if name.startswith("blobs/"):
            digest = ":".join(name.split("/")[1:3])
            await self._store(name, data, member.size, digest)
        elif (name.endswith(".json") and member.size <= SMALL) or name in ("oci-layout", "repositories"):
            self._keep(name, await asyncio.to_thread(data.read, SMALL))
        elif name.endswith(".tar"):
            await self._store(name, data, member.size, "")

    def _keep(self, name: str, data: bytes) -> None:
        self._kept += len(name) + len(data)
        if self._kept > KEPT:
            raise InvalidArgument(f"archive has more than {KEPT} bytes of documents: invalid argument")
        self._files[name] = data

    async def _store(self, name: str, data: IO[bytes], size: int, digest: str) -> None:
        """Write one file of the archive as a blob; `digest` is what its name promises, if anything."""
        first = await asyncio.to_thread(data.read, CHUNK)

        async def blocks() -> AsyncIterator[bytes]:
            block = first
            while block:
                yield block
                block = await asyncio.to_thread(data.read, CHUNK)

        ref = f"archive-{self._token}-{digest or name}"
        digest = await self._client.content.write(ref, blocks(), size=size, expected=digest)
        kind = f"{oci.DOCKER_LAYER}.gzip" if first.startswith(GZIP_MAGIC) else oci.DOCKER_LAYER
        self._stored[name] = Descriptor(digest=digest, size=size, media_type=kind)

    async def _oci(self) -> list[Named]:
        data = self._files["index.json"]
        try:
            index = shapes.parse(data)
        except ValueError as error:
            raise InvalidArgument(f"archive has a bad index.json: {error}: invalid argument") from None
        blob = Descriptor(media_type=oci.INDEX, digest=digest_of(data), size=len(data))
        await self._client.content.write(f"index-{blob.digest}", data, labels=oci.gc_labels(index))
        self.index = blob
        return [Named(_name(entry), oci.descriptor(entry)) for entry in index.get("manifests") or []]

    async def _docker(self) -> list[Named]:
        """A ``docker save`` file: layers are uncompressed tars, the manifest is ours to write."""
        named: list[Named] = []
        for entry in _entries(self._files["manifest.json"]):
            config_data = self._files.get(entry["Config"])
            if config_data is None:
                raise InvalidArgument(f"archive has no {entry['Config']}: invalid argument")
            config = Descriptor(
                media_type=oci.DOCKER_CONFIG, digest=digest_of(config_data), size=len(config_data)
            )
            await self._client.content.write(f"config-{config.digest}", config_data)
            layers = [self._layer(path) for path in entry.get("Layers") or []]
            data = json.dumps(_manifest(config, layers), separators=(",", ":")).encode()
            target = Descriptor(media_type=oci.DOCKER_MANIFEST, digest=digest_of(data), size=len(data))
            await self._client.content.write(f"manifest-{target.digest}", data)
            named += [Named(tag, target) for tag in entry.get("RepoTags") or [""]]
        return named

    def _layer(self, path: str) -> Descriptor:
        for _ in range(8):  # links in old archives stand for layers that occur twice
            if path in self._stored:
                return self._stored[path]
            path = self._links.get(path, "")
        raise InvalidArgument(f"archive has no layer {path}: invalid argument")


def _target(name: str, member: tarfile.TarInfo) -> str:
    base = posixpath.dirname(name) if member.issym() else ""
    return posixpath.normpath(posixpath.join(base, member.linkname))


def _json(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"archive has a bad {what}: {error}: invalid argument") from None


def _entries(data: bytes) -> list[dict[str, Any]]:
    """The images of a manifest.json. Raises InvalidArgument for what has another form."""
    found = _json(data, "manifest.json")
    for entry in found if isinstance(found, list) else [None]:
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("Config"), str)
            or not _is_strings(entry.get("Layers") or [])
            or not _is_strings(entry.get("RepoTags") or [])
        ):
            raise InvalidArgument("archive has a manifest.json of another form: invalid argument")
    return list(found)


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _name(entry: dict[str, Any]) -> str:
    annotations = entry.get("annotations") or {}
    name: str = annotations.get(oci.NAME_ANNOTATION) or annotations.get(oci.REF_ANNOTATION) or ""
    return name


def _manifest(config: Descriptor, layers: Sequence[Descriptor]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": oci.DOCKER_MANIFEST,
        "config": _plain(config),
        "layers": [_plain(layer) for layer in layers],
    }


def recorded_name(name: str, base_name: str) -> str:
    """The full name for a name found in an archive: a bare tag goes behind `base_name`; "" records nothing."""
    if base_name and name and "/" not in name and ":" not in name:
        name = f"{base_name}:{name}"
    if not name or ("/" not in name and ":" not in name):
        return ""
    try:
        return references.normalize(name)
    except InvalidArgument:
        return name


async def import_archive(
    client: AsyncClient,
    archive: IO[bytes],
    *,
    base_name: str,
    digests: bool,
    index_name: str,
    skip_digest_for_named: bool = False,
) -> list[Image]:
    """See `Images.import_archive`."""

    def names(found: Named) -> list[str]:
        recorded = [recorded_name(found.name, base_name)]
        if digests and not (skip_digest_for_named and found.name):
            recorded.append(f"{base_name or 'import'}@{found.target.digest}")
        return [name for name in recorded if name]

    await client.leases.end_abandoned()
    async with client.leased() as leased:
        source = ArchiveSource(leased, archive)
        images = await leased.images.fetch(source, names=names)
        if index_name and source.index is not None:
            images.append(await leased.images.create(index_name, source.index, replace=True))
    return [type(image)(client, image.record) for image in images]


class Wanted(NamedTuple):
    """What of an index goes into an archive: one platform, all that are here, or (`every`) all."""

    platform: oci.Platform | None
    every: bool
    foreign: bool

    def children(self, document: dict[str, Any]) -> list[Descriptor]:
        if "manifests" not in document:
            found = oci.children(document)
            return found if self.foreign else [child for child in found if not oci.is_foreign(child)]
        return [
            oci.descriptor(entry)
            for entry in document["manifests"] or []
            if self.platform is None or oci.matches(self.platform, entry.get("platform"))
        ]


async def export_archive(
    client: AsyncClient,
    names: Sequence[str],
    archive: IO[bytes],
    *,
    wanted: Wanted,
    docker_manifest: bool = True,
) -> None:
    """See `Images.export_archive`."""
    with tarfile.open(fileobj=archive, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, "oci-layout", json.dumps(LAYOUT).encode())
        written: set[str] = set()
        entries: list[dict[str, Any]] = []
        docker: list[dict[str, Any]] = []
        for name in names:
            image = await client.images.get(name, platform=wanted.platform)
            await _export_tree(client, tar, image.target, written, wanted)
            annotations = {oci.NAME_ANNOTATION: name, oci.REF_ANNOTATION: name.rpartition(":")[2]}
            entries.append({**_plain(image.target), "annotations": annotations})
            if not docker_manifest:
                continue
            if not await _is_image(image):
                continue
            config, *layers = oci.children(await image.manifest())
            docker.append(
                {
                    "Config": _path(config.digest),
                    "RepoTags": [name],
                    "Layers": [_path(layer.digest) for layer in layers],
                }
            )
        index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries}
        _add(tar, "index.json", json.dumps(index).encode())
        if docker:
            _add(tar, "manifest.json", json.dumps(docker).encode())


async def _is_image(image: Image) -> bool:
    """Whether there are manifests; a checkpoint need not have one."""
    document = await image.document(image.target)
    return "manifests" not in document or bool(oci.manifests(document))


def _plain(blob: Descriptor) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    header.mode = 0o444
    tar.addfile(header, io.BytesIO(data))


async def _export_tree(
    client: AsyncClient, tar: tarfile.TarFile, blob: Descriptor, written: set[str], wanted: Wanted
) -> None:
    if blob.digest in written:
        return
    written.add(blob.digest)
    if blob.media_type in oci.INDEXES | oci.MANIFESTS:
        data = await client.content.read(blob.digest)
        try:
            document = shapes.parse(data)
        except ValueError as error:
            raise DataLoss(f"blob {blob.digest} is no manifest: {error}: data loss") from None
        for child in wanted.children(document):
            try:
                await _export_tree(client, tar, child, written, wanted)
            except NotFound:
                if blob.media_type in oci.MANIFESTS or wanted.every:
                    raise
        _add(tar, _path(blob.digest), data)
        return
    size = (await client.content.info(blob.digest)).size
    await _export_blob(client, tar, blob.digest, size)


async def _export_blob(client: AsyncClient, tar: tarfile.TarFile, digest: str, size: int) -> None:
    """Layers can be large: through a file, not through memory."""
    header = tarfile.TarInfo(_path(digest))
    header.size = size
    header.mode = 0o444
    with tempfile.TemporaryFile() as spool:
        async for block in client.content.chunks(digest):
            spool.write(block)
        spool.seek(0)
        await asyncio.to_thread(tar.addfile, header, spool)
