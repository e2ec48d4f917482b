"""Blobs in a content store of somebody else's: ``[proxy_plugins.NAME]`` with ``type = "content"``.

What is known about blobs (names, labels, leases, collection) and what is still
arriving stay here, as with blobs in files; the bytes of whole blobs are the
other store's. There they are all in one namespace and bear a root label, since
the other side may collect garbage and knows nothing of our references.

Everything here blocks and is called in threads, as `Files` is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc

from longshore.api import errors
from longshore.api.services.content.v1 import content_pb2 as pb
from longshore.api.services.content.v1.content_pb2_grpc import ContentStub
from longshore.containerd.content.files import Files, Ingest

NAMESPACE: Final = "longshore"
ROOT_LABEL: Final = "containerd.io/gc.root"

_CHUNK: Final = 1 << 20
_TIMEOUT: Final = 60.0  # seconds for one call that moves no data
_HEADERS: Final = (("containerd-namespace", NAMESPACE),)


class RemoteFiles(Files):
    """`Files` whose blobs are behind `channel`; ingests are below `root`."""

    opens_at_once = False

    def __init__(self, root: Path, name: str, channel: grpc.Channel) -> None:
        super().__init__(root)
        self._name, self._stub = name, ContentStub(channel)

    def open_blob(self, digest: str) -> int:
        """A copy without a name, for as long as it is open."""
        with self._translated(), tempfile.TemporaryFile(dir=self.root) as copy:
            request = pb.ReadContentRequest(digest=digest)
            for piece in self._stub.Read(request, metadata=_HEADERS):
                copy.write(piece.data)
            copy.seek(0)
            return os.dup(copy.fileno())

    def publish(self, ingest: Ingest, digest: str) -> None:
        with self._translated():
            try:
                for _ in self._stub.Write(self._writes(ingest, digest), metadata=_HEADERS):
                    pass
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                    raise

    def _writes(self, ingest: Ingest, digest: str) -> Iterator[pb.WriteContentRequest]:
        """From the first byte, whatever an interrupted try left behind. The commit names the digest: it is checked."""
        ref, total = f"longshore/{digest}", ingest.size
        yield pb.WriteContentRequest(action=pb.WRITE, ref=ref, total=total, expected=digest, offset=0)
        offset = 0
        while data := os.pread(ingest.fd, _CHUNK, offset):
            yield pb.WriteContentRequest(action=pb.WRITE, ref=ref, offset=offset, data=data)
            offset += len(data)
        yield pb.WriteContentRequest(
            action=pb.COMMIT,
            ref=ref,
            total=total,
            expected=digest,
            offset=offset,
            labels={ROOT_LABEL: NAMESPACE},
        )

    def withdraw(self, ingest: Ingest, digest: str) -> None:
        """The data is still in the ingest."""
        self._delete(digest)

    def remove_blob(self, digest: str) -> None:
        """Raises OSError where the other store doesn't answer: it is tried again later."""
        try:
            self._delete(digest)
        except errors.Error as error:
            raise OSError(errno.EIO, error.message) from None

    def _delete(self, digest: str) -> None:
        with contextlib.suppress(errors.NotFound), self._translated():
            self._stub.Delete(pb.DeleteContentRequest(digest=digest), metadata=_HEADERS, timeout=_TIMEOUT)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            text = f"content store {self._name}: {error.details() or error.code().name.lower()}"
            raise errors.from_code(int(error.code().value[0]), text) from None
