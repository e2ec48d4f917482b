"""`Images`: every image of the daemon, by name, ID or the beginning of an ID."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from longshore.api.errors import AlreadyExists, NotFound
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.client import AsyncClient, oci
from longshore.client.images import Image, Record
from longshore.dockerd.engine import ImageInfo, ImageSource
from longshore.dockerd.http import Version
from longshore.dockerd.images import documents, listing, names, removal
from longshore.dockerd.images.catalogue import MANIFEST_LABEL, OWNER, SNAPSHOTTER, Catalogue, Entry, Facts
from longshore.dockerd.images.names import Reference
from longshore.dockerd.records import Container
from longshore.dockerd.state import Delete, Put, State

if TYPE_CHECKING:
    from longshore.dockerd.config import Config
    from longshore.dockerd.events import Events
    from longshore.dockerd.images.importing import Wish
    from longshore.dockerd.images.registries import Auth
    from longshore.dockerd.images.saving import Chosen
    from longshore.zygote.client import Zygote

KIND: Final = "images"


class Note(msgspec.Struct, kw_only=True):
    """What dockerd remembers of an image beside containerd; kind "images" in `State`, key = ID."""

    parent: str = ""
    tagged_ns: int = 0


class Images(ImageSource):
    """Names change one at a time, under one lock; everything that makes content holds a lease meanwhile."""

    def __init__(
        self, client: AsyncClient, state: State, events: Events, config: Config, zygote: Zygote
    ) -> None:
        self.client, self.state, self.events, self.config, self.zygote = client, state, events, config, zygote
        self.catalogue = Catalogue(client)
        self._notes: dict[str, Note] = state.load(KIND, Note)
        self._names = asyncio.Lock()

    async def start(self) -> None:
        """Forget what is remembered of images that are gone, and take over what was being pulled."""
        from longshore.client.pull import recover_pulls

        await recover_pulls(self.client, OWNER)
        entries = await self.catalogue.entries()
        gone = [image_id for image_id in self._notes if image_id not in entries]
        await self.state.commit(*(Delete(KIND, image_id) for image_id in gone))
        for image_id in gone:
            del self._notes[image_id]

    async def close(self) -> None:
        """Nothing to end: what is under way belongs to its request."""

    # -- finding

    async def find(self, reference: str) -> Entry:
        """By name, ID or unambiguous beginning of an ID. NotFound: "No such image: NAME:TAG"."""
        entries = await self.catalogue.entries()
        whole = names.id_prefix(reference)
        if len(whole) == len("sha256:") + 64:
            if whole in entries:
                return entries[whole]
            raise NotFound(f"No such image: {whole}")
        wanted = names.parse(reference)
        by_name = _by_name(entries.values(), wanted)
        if by_name is not None:
            return by_name
        matching = [entry for image_id, entry in entries.items() if whole and image_id.startswith(whole)]
        if len(matching) == 1:
            return matching[0]
        raise NotFound(f"No such image: {names.familiar(wanted)}")

    async def id_of(self, reference: Reference) -> str:
        """Of the image with exactly this name; "" if there is none."""
        try:
            record = (await self.client.images.get(str(reference))).record
        except NotFound:
            return ""
        facts = await self.catalogue.look(record)
        return facts.id if facts else ""

    async def resolve(self, reference: str) -> ImageInfo:
        """By name, ID or unambiguous prefix of the ID; unpacked afterwards. NotFound: "No such image: NAME:TAG"."""
        entry = await self.find(reference)
        if not await self._is_unpacked(entry.facts):
            await self.unpack(entry.facts)
        return self.info(entry)

    async def _is_unpacked(self, facts: Facts) -> bool:
        try:
            return not facts.chain or bool(await self.client.snapshots(SNAPSHOTTER).stat(facts.chain_id))
        except NotFound:
            return False

    def info(self, entry: Entry) -> ImageInfo:
        """The image as containers and builds need it."""
        facts = entry.facts
        return ImageInfo(
            facts.id, facts.config, facts.chain_id, facts.manifest.digest, tuple(entry.repo_tags)
        )

    async def unpack(self, facts: Facts, client: AsyncClient | None = None) -> None:
        """Make its layers snapshots unless they are."""
        await self.image(facts, client).unpack(SNAPSHOTTER)

    def image(self, facts: Facts, client: AsyncClient | None = None) -> Image:
        """The SDK's view of it, for exactly its own manifest."""
        record = Record(name=names.dangling(facts.manifest.digest), target=facts.manifest)
        return Image(client or self.client, record, facts.platform)

    def children(self, image_id: str) -> list[str]:
        return [child for child, note in self._notes.items() if note.parent == image_id]

    def parent(self, image_id: str) -> str:
        return self._notes.get(image_id, Note()).parent

    async def _extras(self, entry: Entry) -> documents.Extras:
        note = self._notes.get(entry.id, Note())
        return documents.Extras(await self.catalogue.size(entry.facts), note.parent, note.tagged_ns)

    # -- what clients see

    async def inspect(self, reference: str, version: Version) -> dict[str, Any]:
        entry = await self.find(reference)
        return documents.inspect(entry, await self._extras(entry), version)

    async def summaries(
        self,
        filters: Mapping[str, Sequence[str]],
        version: Version,
        *,
        every: bool = False,
        shared: bool = False,
    ) -> list[dict[str, Any]]:
        """Newest first; `every` shows the intermediate images of builds too, `shared` sums common layers up."""
        selection = await self._selection(filters)
        entries = await self.catalogue.entries()
        await self.catalogue.measure(entries.values())
        chosen = []
        for entry in listing.newest_first(list(entries.values())):
            found = listing.narrowed(entry, selection.patterns)
            if found is not None and selection.takes(found) and self._shown(found, selection.dangling, every):
                chosen.append(found)
        extras = [await self._extras(entry) for entry in chosen]
        if shared:
            counts = Counter(chain_id for entry in entries.values() for chain_id in entry.facts.chain)
            extras = [
                extra._replace(shared=await self._shared(entry.facts, counts))
                for entry, extra in zip(chosen, extras, strict=True)
            ]
        return [documents.summary(e, extra, version) for e, extra in zip(chosen, extras, strict=True)]

    async def _shared(self, facts: Facts, counts: Mapping[str, int]) -> int:
        sizes = [await self.catalogue.layer_size_or_0(chain) for chain in facts.chain if counts[chain] > 1]
        return sum(sizes)

    async def layers_size(self) -> int:
        """Bytes of all unpacked layers of images, each counted once."""
        entries = await self.catalogue.entries()
        chains = {chain_id for entry in entries.values() for chain_id in entry.facts.chain}
        return sum(await asyncio.gather(*map(self.catalogue.layer_size_or_0, chains)))

    def _shown(self, entry: Entry, dangling: bool | None, every: bool) -> bool:
        if entry.references:
            return not (dangling and entry.tags)
        return dangling is not False and (every or not self.children(entry.id))

    async def _selection(self, filters: Mapping[str, Sequence[str]]) -> listing.Selection:
        before = [(await self.find(name)).facts.created_ns for name in filters.get("before") or ()]
        since = [(await self.find(name)).facts.created_ns for name in filters.get("since") or ()]
        until = listing.until(filters)
        return listing.Selection(
            listing.boolean(filters, "dangling"),
            tuple(filters.get("label") or ()),
            tuple(filters.get("label!") or ()),
            min([*before, *([until] if until else [])], default=0),
            max(since, default=0),
            tuple(filters.get("reference") or ()),
        )

    async def history(self, reference: str) -> list[dict[str, Any]]:
        """What was done to make it, newest first."""
        entry = await self.find(reference)
        sizes = await self._layer_sizes(entry.facts)
        entries = await self.catalogue.entries()
        ancestors = [entry]
        while (above := entries.get(self.parent(ancestors[-1].id))) is not None and above not in ancestors:
            ancestors.append(above)
        return documents.history(entry.facts, sizes, ancestors)

    async def _layer_sizes(self, facts: Facts) -> list[int]:
        try:
            return [await self.catalogue.layer_size(chain_id) for chain_id in facts.chain]
        except NotFound:
            return [layer.size for layer in facts.layers]

    # -- names

    async def tag(self, source: str, target: Reference) -> None:
        """Give an image one more name; who had it loses it. NotFound, InvalidArgument."""
        entry = await self.find(source)
        await self.name(entry.facts, [target])
        self.publish("tag", entry.id, entry.facts, names.familiar(target))

    async def name(
        self,
        facts: Facts,
        references: Iterable[Reference],
        *,
        target: Descriptor | None = None,
        client: AsyncClient | None = None,
        tagged: bool = True,
    ) -> list[Entry]:
        """Record names of an image; without any it stays as an image without a name.

        `target` is the index that the name stands for, by default the image's
        own manifest. Answers the images that lost their last name by this.
        """
        listed = list(references)
        blob = target or facts.manifest
        labels = {MANIFEST_LABEL: facts.manifest.digest} if blob.digest != facts.manifest.digest else {}
        images = (client or self.client).images
        async with self._names:
            entries = await self.catalogue.entries()
            losers = _losers(entries.values(), facts.id, {str(reference) for reference in listed})
            for loser in losers:
                await self._keep(loser)
            if tagged and listed:
                await self._remember(facts.id, tagged_ns=time.time_ns())
            for reference in listed:
                await images.create(str(reference), blob, labels, replace=True)
            if listed:
                await self._drop_placeholders(entries.get(facts.id))
            elif facts.id not in entries:
                await images.create(names.dangling(facts.manifest.digest), facts.manifest, replace=True)
        return losers

    async def _keep(self, entry: Entry) -> None:
        """Hold an image without a name."""
        with contextlib.suppress(AlreadyExists):
            await self.client.images.create(names.dangling(entry.facts.manifest.digest), entry.facts.manifest)

    async def _drop_placeholders(self, entry: Entry | None) -> None:
        for record in entry.records if entry else ():
            if names.is_dangling(record.name):
                with contextlib.suppress(NotFound):
                    await self.client.images.delete(record.name)

    async def adopt(self, child: str, parent: str) -> None:
        """Remember of which image another was made."""
        if child != parent and child not in self._ancestry(parent):
            await self._remember(child, parent=parent)

    def _ancestry(self, image_id: str) -> list[str]:
        found: list[str] = []
        while image_id and image_id not in found:
            found.append(image_id)
            image_id = self.parent(image_id)
        return found

    async def _remember(self, image_id: str, **changes: Any) -> None:
        note = msgspec.structs.replace(self._notes.get(image_id, Note()), **changes)
        await self.state.commit(Put(KIND, image_id, note))
        self._notes[image_id] = note

    async def _forget(self, image_id: str) -> None:
        if self._notes.pop(image_id, None) is not None:
            await self.state.commit(Delete(KIND, image_id))

    def publish(self, action: str, actor: str, facts: Facts | None, name: str) -> None:
        """An event of an image."""
        self.events.publish("image", action, actor, documents.event_attributes(facts, name))

    # -- removing

    async def remove(
        self, reference: str, containers: Sequence[Container], *, force: bool = False, prune: bool = True
    ) -> list[dict[str, str]]:
        """Untag, and delete what has no name left; `prune` also deletes parents without names.

        Answers what was done: ``[{"Untagged": name}, {"Deleted": id}, ...]``.
        Raises NotFound, Conflict.
        """
        entry = await self.find(reference)
        done: list[dict[str, str]] = []
        by_id = entry.id.startswith(names.id_prefix(reference) or "?")
        if by_id:
            if removal.is_single(entry.references):
                self._check(entry, containers, soft=not force, ignore_references=True)
                await self._untag(entry, entry.references, done)
            left = (await self.catalogue.entries()).get(entry.id, Entry(entry.facts))
        else:
            if not force and removal.is_single(entry.references):
                user = removal.user_of(entry.id, containers)
                if user is not None:
                    raise removal.reference_in_use(reference, entry.id, user)
            asked = names.parse(reference)
            left = await self._untag(entry, [_same(entry, asked)], done)
            if left.references:
                return done
        await self._delete(left, containers, done, force=force, prune=prune, quiet=not by_id)
        return done

    def _check(
        self,
        entry: Entry,
        containers: Sequence[Container],
        *,
        soft: bool,
        ignore_references: bool = False,
    ) -> None:
        found = removal.obstacle(
            entry,
            containers,
            has_children=bool(self.children(entry.id)),
            soft=soft,
            ignore_references=ignore_references,
        )
        if found is not None:
            raise found.error(entry.id)

    async def _untag(
        self, entry: Entry, references: Sequence[Reference], done: list[dict[str, str]]
    ) -> Entry:
        """Take names away; the image itself stays as one without a name. What it has left."""
        async with self._names:
            entry = (await self.catalogue.entries()).get(entry.id, entry)
            going = [reference for reference in references if reference in entry.references]
            left = [reference for reference in entry.references if reference not in going]
            for reference in list(going):
                orphans = removal.orphaned(reference, left)
                going += orphans
                left = [other for other in left if other not in orphans]
            if not left:
                await self._keep(entry)
            for reference in going:
                with contextlib.suppress(NotFound):
                    await self.client.images.delete(str(reference))
        for reference in going:
            done.append({"Untagged": names.familiar(reference)})
            self.publish("untag", entry.id, entry.facts, entry.id)
        return (await self.catalogue.entries()).get(entry.id, Entry(entry.facts))

    async def _delete(
        self,
        entry: Entry,
        containers: Sequence[Container],
        done: list[dict[str, str]],
        *,
        force: bool,
        prune: bool,
        quiet: bool,
    ) -> None:
        children = self.children(entry.id)
        found = removal.obstacle(entry, containers, has_children=bool(children), soft=not force)
        if found is not None:
            if quiet and (entry.references or children or found.used):
                return
            raise found.error(entry.id)
        parent = self.parent(entry.id)
        await self._untag(entry, entry.references, done) if entry.references else None
        await self._erase(entry, containers, done)
        above = (await self.catalogue.entries()).get(parent) if prune and parent else None
        if above is not None and not above.references:
            await self._delete(above, containers, done, force=False, prune=True, quiet=True)

    async def _erase(self, entry: Entry, containers: Sequence[Container], done: list[dict[str, str]]) -> None:
        """Delete an image without names, and its layers, as far as nobody else has them."""
        async with self._names:
            entries = await self.catalogue.entries()
            present = entries.pop(entry.id, entry)
            if present.references:
                return  # somebody has just named it
            for record in present.records:
                with contextlib.suppress(NotFound):
                    await self.client.images.delete(record.name, sync=True)
            await self._forget(entry.id)
        self.publish("delete", entry.id, entry.facts, entry.id)
        done.append({"Deleted": entry.id})
        kept = {chain_id for other in entries.values() for chain_id in other.facts.chain}
        if removal.user_of(entry.id, containers) is not None:
            kept.update(entry.facts.chain)
        done += [{"Deleted": chain_id} for chain_id in reversed(entry.facts.chain) if chain_id not in kept]

    # -- registries

    def pull(
        self,
        reference: Reference,
        auth: Auth,
        platform: oci.Platform | None = None,
        *,
        every: bool = False,
    ) -> AsyncIterator[dict[str, Any]]:
        """Fetch an image, or `every` tag of a repository; lines of progress."""
        from longshore.dockerd.images.pulling import pull

        return pull(self, reference, auth, platform, every=every)

    def push(self, repository: Reference, tag: str, auth: Auth) -> AsyncIterator[dict[str, Any]]:
        """Send a tag, or with "" every tag of the repository; lines of progress."""
        from longshore.dockerd.images.pushing import push

        return push(self, repository, tag, auth)

    # -- archives

    def load(
        self, archive: IO[bytes], *, quiet: bool = False, platform: oci.Platform | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Read a docker or OCI archive and record its images; lines of progress, if `quiet` only the names.

        With a `platform` all must be for it (NotFound).
        """
        from longshore.dockerd.images.loading import load

        return load(self, archive, quiet=quiet, platform=platform)

    def import_tar(self, archive: AsyncIterator[bytes], wish: Wish) -> AsyncIterator[dict[str, Any]]:
        """A root file system's tar as an image of one layer."""
        from longshore.dockerd.images.importing import import_tar

        return import_tar(self, archive, wish)

    async def choose(self, asked: Sequence[str]) -> Sequence[Chosen]:
        """What `save` is meant to write. Raises NotFound."""
        from longshore.dockerd.images.saving import choose

        return await choose(self, asked)

    def save(self, chosen: Sequence[Chosen]) -> AsyncIterator[bytes]:
        """A docker archive that is an OCI layout too."""
        from longshore.dockerd.images.saving import save

        return save(self, chosen)

    async def prune(
        self, filters: Mapping[str, Sequence[str]], containers: Sequence[Container]
    ) -> dict[str, Any]:
        """Delete what nobody needs."""
        from longshore.dockerd.images.pruning import prune

        return await prune(self, filters, containers)

    async def make(
        self,
        parent: ImageInfo | None,
        snapshot: str,
        config: dict[str, Any],
        names: Sequence[str] = (),
        *,
        consume: bool = False,
    ) -> ImageInfo:
        """A new image; see `longshore.dockerd.images.making.make`."""
        from longshore.dockerd.images.making import make

        return await make(self, parent, snapshot, config, names, consume=consume)


def _by_name(entries: Iterable[Entry], wanted: Reference) -> Entry | None:
    """With tag and digest both, the digest decides."""
    return next((entry for entry in entries if _same_or_none(entry, wanted) is not None), None)


def _same_or_none(entry: Entry, wanted: Reference) -> Reference | None:
    exact = wanted._replace(tag="") if wanted.digest else wanted
    return next((reference for reference in entry.references if reference == exact), None)


def _same(entry: Entry, wanted: Reference) -> Reference:
    found = _same_or_none(entry, wanted)
    return found if found is not None else wanted


def _losers(entries: Iterable[Entry], winner: str, taken: set[str]) -> list[Entry]:
    """Images all of whose records are about to be another's."""
    return [
        entry
        for entry in entries
        if entry.id != winner and entry.records and all(record.name in taken for record in entry.records)
    ]
