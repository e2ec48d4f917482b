"""Checkpoints between the shim, which writes criu's images into a folder, and the content store.

A checkpoint in content is two blobs: the folder as a tar, and the container's
spec as it was; the client makes an index of them. Media types are containerd's.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import IO, Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from longshore.api.errors import AlreadyExists, Error, InvalidArgument
from longshore.api.services.containers.v1.containers_pb2 import Container
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.api.types.runc.options.oci_pb2 import CheckpointOptions
from longshore.api.typeurls import type_name
from longshore.containerd.content.store import ContentStore
from longshore.containerd.scope import Scope

IMAGES: Final = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
CONFIG: Final = "application/vnd.containerd.container.checkpoint.config.v1+proto"
FOLDER: Final = "checkpoint"  # in the bundle of a task that is made from one

_BLOCK: Final = 1 << 20


def image_path(options: Any) -> str:
    """Where the client wants criu's images, "" for the content store. Raises InvalidArgument for a malformed Any."""
    if type_name(options) != CheckpointOptions.DESCRIPTOR.full_name:
        return ""
    try:
        return CheckpointOptions.FromString(options.value).image_path
    except DecodeError:
        raise InvalidArgument(f"malformed checkpoint options {options.type_url}: invalid argument") from None


@asynccontextmanager
async def scratch(parent: str) -> AsyncIterator[str]:
    """A folder for the images, gone afterwards."""
    folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="checkpoint-", dir=parent)
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


class Checkpoints:
    def __init__(self, content: ContentStore) -> None:
        self._content = content

    async def save(self, scope: Scope, container: Container, folder: str) -> list[Descriptor]:
        """Store the images in `folder` and the container's spec; descriptors of both."""
        with tempfile.TemporaryFile(dir=os.path.dirname(folder)) as archive:
            await asyncio.to_thread(_pack, folder, archive)
            images = await self._store(scope, f"checkpoint-{container.id}", IMAGES, archive)
        with tempfile.TemporaryFile() as spec:
            spec.write(container.spec.SerializeToString())
            return [images, await self._store(scope, f"checkpoint-{container.id}-config", CONFIG, spec)]

    async def _store(self, scope: Scope, ref: str, media_type: str, data: IO[bytes]) -> Descriptor:
        digest = f"sha256:{await asyncio.to_thread(_sha256, data)}"
        size = data.seek(0, os.SEEK_END)
        data.seek(0)
        with suppress(AlreadyExists):
            writer = await self._content.writer(scope, ref, total=size, expected=digest)
            try:
                while block := await asyncio.to_thread(data.read, _BLOCK):
                    await writer.write(block)
                await writer.commit(size, digest, {})
            finally:
                await writer.close()
        return Descriptor(media_type=media_type, digest=digest, size=size)

    async def unpack(self, scope: Scope, checkpoint: Descriptor, folder: str) -> None:
        """Make `folder` with the images of a stored checkpoint; on failure it is gone again.

        Raises Error for another media type, NotFound, InvalidArgument for what is no such archive.
        """
        if checkpoint.media_type != IMAGES:
            raise Error(f'unsupported checkpoint type "{checkpoint.media_type}"')
        blob = await self._content.open(scope, checkpoint.digest)
        with os.fdopen(blob.fd, "rb") as archive:
            await asyncio.to_thread(_unpack, archive, checkpoint.digest, folder)


def _sha256(data: IO[bytes]) -> str:
    data.seek(0)
    return hashlib.file_digest(data, "sha256").hexdigest()  # type: ignore[arg-type]


def _pack(folder: str, archive: IO[bytes]) -> None:
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(os.listdir(folder)):
            tar.add(os.path.join(folder, name), arcname=name)


def _unpack(archive: IO[bytes], digest: str, folder: str) -> None:
    os.mkdir(folder, 0o700)
    try:
        with tarfile.open(fileobj=archive) as tar:
            for member, name in _members(tar, digest):
                target = os.path.join(folder, name)
                if member.isdir():
                    os.makedirs(target, 0o700, exist_ok=True)
                    continue
                os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
                source = tar.extractfile(member)
                with open(target, "xb") as file:
                    if source is not None:
                        shutil.copyfileobj(source, file, _BLOCK)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, tarfile.TarError | FileExistsError):
            raise InvalidArgument(f"checkpoint {digest} is no archive of images: invalid argument") from None
        raise


def _members(tar: tarfile.TarFile, digest: str) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Files and folders with clean names: criu writes nothing else, and nothing else is wanted from a blob."""
    for member in tar:
        name = os.path.normpath(member.name)
        if name == ".":
            continue
        if not (member.isfile() or member.isdir()) or name.startswith(("/", "..")):
            raise InvalidArgument(f"checkpoint {digest} holds {member.name!r}: invalid argument")
        yield member, name
