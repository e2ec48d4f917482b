"""The Transfer service: images from somewhere to somewhere, done by the daemon.

Which pairs there are is the table `_PAIRS`. Everything that takes long is
interrupted when the client goes: what has come stays under the lease, and is
taken up by the next try.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple
from typing import Any as Anything

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from longshore.api import errors
from longshore.api.services.images.v1.images_pb2 import Image
from longshore.api.services.transfer.v1.transfer_pb2 import TransferRequest
from longshore.api.services.transfer.v1.transfer_pb2_grpc import TransferServicer
from longshore.api.types.transfer.imagestore_pb2 import ImageStore
from longshore.api.types.transfer.importexport_pb2 import ImageExportStream, ImageImportStream
from longshore.api.types.transfer.registry_pb2 import OCIRegistry
from longshore.containerd import rpc
from longshore.containerd.content.store import ContentStore
from longshore.containerd.diff.differ import Differ
from longshore.containerd.metadata.store import Store
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.snapshotter import Snapshotter
from longshore.containerd.streaming.bytestream import ByteReader, ByteWriter
from longshore.containerd.streaming.streams import Stream, Streams
from longshore.containerd.transfer import export, naming, oci
from longshore.containerd.transfer.archive import read_archive
from longshore.containerd.transfer.endpoints import endpoint, platform_of, registry_options
from longshore.containerd.transfer.failures import translated
from longshore.containerd.transfer.progress import Progress
from longshore.containerd.transfer.pull import Intake, StoredSource, Verify, Wish, pull
from longshore.containerd.transfer.shelf import Shelf
from longshore.registry.platforms import Platform, host_platform

if TYPE_CHECKING:
    from longshore.registry.client import Repository


class Settings(NamedTuple):
    """Of ``[plugins."io.containerd.transfer.v1.local"]``. `unpacks`: which snapshotter for which platform."""

    downloads: int = 3
    uploads: int = 3
    hosts_folder: str = ""
    unpacks: tuple[tuple[Platform, str], ...] = ((host_platform(), "overlayfs"),)


class TransferService(TransferServicer):
    def __init__(
        self,
        store: Store,
        content: ContentStore,
        snapshotters: Mapping[str, Snapshotter],
        differ: Differ,
        streams: Streams,
        settings: Settings,
        verify: Verify | None = None,
    ) -> None:
        self._store, self._content, self._snapshotters = store, content, snapshotters
        self._differ, self._streams, self._settings, self._verify = differ, streams, settings, verify

    @rpc.unary()
    async def Transfer(self, request: TransferRequest, call: rpc.Call) -> Empty:
        scope = Scope(call.namespace, call.lease)
        source, target = endpoint(request.source, "source"), endpoint(request.destination, "destination")
        work = _PAIRS.get((type(source), type(target)))
        if work is None:
            raise errors.Unimplemented(
                f"transfer from {source.DESCRIPTOR.name} to {target.DESCRIPTOR.name}: not implemented"
            )
        stream = self._stream(scope, request.options.progress_stream)
        with _closing(stream):
            shelf = Shelf(scope, self._store, self._content, self._snapshotters, self._differ)
            async with shelf.leased() as leased:
                await work(self, leased, source, target, Progress(stream))
        return Empty()

    def _stream(self, scope: Scope, id: str) -> Stream | None:
        return self._streams.get(scope.namespace, id) if id else None

    # -- the pairs ------------------------------------------------------------------------------------------

    async def _pull(self, shelf: Shelf, source: OCIRegistry, target: ImageStore, progress: Progress) -> None:
        with translated(f"pull {source.reference}"):
            async with AsyncExitStack() as stack:
                repository = await self._repository(stack, shelf, source)
                name = str(repository.reference)
                found = await pull(shelf, repository, self._wish(target), progress, self._verify)
            for each in naming.pulled(target, name, found.digest):
                await shelf.name_image(each, found, target.labels)
                progress.say("saved", each, found)
            progress.say(f"Completed pull from {name}", name, found)

    async def _push(self, shelf: Shelf, source: ImageStore, target: OCIRegistry, progress: Progress) -> None:
        from longshore.containerd.transfer.push import Push

        with translated(f"push {target.reference}"):
            image = shelf.image(source.name or target.reference)
            async with AsyncExitStack() as stack:
                repository = await self._repository(stack, shelf, target)
                push = Push(shelf, repository, self._settings.uploads, progress)
                await push.run(oci.of_message(image.target), _platforms(source.platforms))

    async def _import(
        self, shelf: Shelf, source: ImageImportStream, target: ImageStore, progress: Progress
    ) -> None:
        if source.force_compress:
            raise errors.Unimplemented("force_compress of an import: not implemented")
        stream = self._streams.get(shelf.scope.namespace, source.stream)
        with translated("import"), _closing(stream):
            progress.say("Importing")
            contents = await read_archive(shelf, ByteReader(stream))
            wish, stored = self._wish(target), StoredSource(shelf)
            await shelf.label(contents.whole.digest, oci.gc_labels(await shelf.document(contents.whole)))
            for image in contents.images:
                await Intake(shelf, stored, wish, progress).take(image.target)
                for name in naming.imported(target, image.name, image.target.digest):
                    await shelf.name_image(name, image.target, target.labels)
                    progress.say("saved", name, image.target)
            if target.name:
                await shelf.name_image(target.name, contents.whole, target.labels)
                progress.say("saved", target.name, contents.whole)
            progress.say("Completed import", blob=contents.whole)

    async def _export(
        self, shelf: Shelf, source: ImageStore, target: ImageExportStream, progress: Progress
    ) -> None:
        stream = self._streams.get(shelf.scope.namespace, target.stream)
        with translated("export"), _closing(stream):
            names = [source.name, *(extra.name for extra in source.extra_references if not extra.is_prefix)]
            images: Sequence[Image] = [shelf.image(name) for name in dict.fromkeys(filter(None, names))]
            if not images:
                raise errors.InvalidArgument("export needs the name of an image: invalid argument")
            platforms = () if target.all_platforms else _platforms(target.platforms)
            how = export.How(platforms, target.skip_compatibility_manifest, target.skip_non_distributable)
            progress.say("Exporting")
            writer = ByteWriter(stream)
            async with aclosing(export.archive(shelf, images, how)) as pieces:  # type: ignore[type-var]
                async for data in pieces:
                    await writer.write(data)
            progress.say("Completed export")

    async def _tag(self, shelf: Shelf, source: ImageStore, target: ImageStore, progress: Progress) -> None:
        image = shelf.image(source.name)
        if not target.name:
            raise errors.InvalidArgument("tag needs a name: invalid argument")
        labels = dict(target.labels) or dict(image.labels)
        await shelf.name_image(target.name, oci.of_message(image.target), labels)
        progress.say("saved", target.name, oci.of_message(image.target))

    # -- what they share ------------------------------------------------------------------------------------

    async def _repository(self, stack: AsyncExitStack, shelf: Shelf, end: OCIRegistry) -> Repository:
        # Only here: an HTTP client is a third of all that the daemon would load at its start.
        from longshore.registry.client import Registry

        auth = self._stream(shelf.scope, end.resolver.auth_stream)
        trace = self._stream(shelf.scope, end.resolver.logs_stream)
        stack.enter_context(_closing(auth))
        stack.enter_context(_closing(trace))
        options = registry_options(
            end.resolver,
            end.reference,
            self._settings.hosts_folder,
            auth,
            trace if end.resolver.http_debug else None,
        )
        registry = await stack.enter_async_context(Registry(options))
        return registry.repository(end.reference)

    def _wish(self, target: ImageStore) -> Wish:
        unpacks = tuple(self._unpack(platform_of(each.platform), each.snapshotter) for each in target.unpacks)
        for _, snapshotter in unpacks:
            if snapshotter not in self._snapshotters:
                raise errors.InvalidArgument(f"snapshotter not loaded: {snapshotter}: invalid argument")
        return Wish(
            _platforms(target.platforms),
            unpacks,
            target.all_metadata,
            target.manifest_limit,
            self._settings.downloads,
        )

    def _unpack(self, platform: Platform, snapshotter: str) -> tuple[Platform, str]:
        """With what the request leaves open taken from the settings."""
        default_platform, default_snapshotter = self._settings.unpacks[0]
        chosen = platform if platform.architecture else default_platform
        for known, name in self._settings.unpacks:
            if known.full == chosen.full:
                default_snapshotter = name
        return chosen, snapshotter or default_snapshotter


_Work = Callable[[TransferService, Shelf, Anything, Anything, Progress], Awaitable[None]]

_PAIRS: Final[dict[tuple[type[Message], type[Message]], _Work]] = {
    (OCIRegistry, ImageStore): TransferService._pull,
    (ImageStore, OCIRegistry): TransferService._push,
    (ImageImportStream, ImageStore): TransferService._import,
    (ImageStore, ImageExportStream): TransferService._export,
    (ImageStore, ImageStore): TransferService._tag,
}


def _platforms(messages: Sequence[Anything]) -> tuple[Platform, ...]:
    return tuple(platform_of(message) for message in messages)


@contextmanager
def _closing(stream: Stream | None) -> Iterator[None]:
    """The client sees the end of its stream when the work is over."""
    try:
        yield
    finally:
        if stream is not None:
            stream.close()
