"""Has this been done before? Images that builds have left answer, and those that `--cache-from` names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from longshore.api.errors import NotFound
from longshore.dockerd.build import configs
from longshore.dockerd.engine import ImageInfo
from longshore.dockerd.images import making
from longshore.dockerd.images.catalogue import Entry
from longshore.dockerd.images.store import Images

Document = dict[str, Any]


class Cache:
    """For one stage: after the first step that wasn't found nothing is looked for."""

    def __init__(self, images: Images, *, enabled: bool, sources: Sequence[Entry] = ()) -> None:
        self._images, self._enabled, self._sources = images, enabled, list(sources)

    @classmethod
    async def of(cls, images: Images, *, enabled: bool, names: Sequence[str]) -> Cache:
        """With the images `names` as far as they are here."""
        sources = []
        for name in names:
            try:
                sources.append(await images.find(name))
            except NotFound:
                continue
        if names and not sources:
            return cls(images, enabled=False)
        return cls(images, enabled=enabled, sources=sources)

    async def probe(self, parent: ImageInfo | None, done: Document) -> ImageInfo | None:
        """The image that the same step made of the same parent: `done` is the step's container's configuration."""
        if not self._enabled:
            return None
        found = await self._found(parent.id if parent else "", done)
        if found is None:
            self._enabled = False
        return found

    async def _found(self, parent: str, done: Document) -> ImageInfo | None:
        local = await self._built_here(parent, done)
        if not self._sources:
            return None if local is None else self._images.info(local)
        if local is not None and any(self._descends(source.id, local.id) for source in self._sources):
            return self._images.info(local)
        return await self._from_history(parent, done)

    async def _built_here(self, parent: str, done: Document) -> Entry | None:
        """The latest."""
        entries = await self._images.catalogue.entries()
        if parent:
            candidates = [entries[child] for child in self._images.children(parent) if child in entries]
        else:
            candidates = [entry for image_id, entry in entries.items() if not self._images.parent(image_id)]
        matching = [
            entry
            for entry in candidates
            if configs.same(entry.facts.config.get("container_config") or {}, done)
            and len(entry.facts.config.get("history") or ()) == await self._length(parent) + 1
        ]
        return max(matching, key=lambda entry: str(entry.facts.config.get("created")), default=None)

    async def _length(self, parent: str) -> int:
        if not parent:
            return 0
        return len((await self._images.find(parent)).facts.config.get("history") or ())

    def _descends(self, image_id: str, ancestor: str) -> bool:
        seen: set[str] = set()
        while image_id and image_id not in seen:
            if image_id == ancestor:
                return True
            seen.add(image_id)
            image_id = self._images.parent(image_id)
        return False

    async def _from_history(self, parent: str, done: Document) -> ImageInfo | None:
        """An image whose history goes on from the parent's with this step; up to it, it is made again."""
        above = (await self._images.find(parent)) if parent else None
        past = list(above.facts.config.get("history") or ()) if above else []
        for source in self._sources:
            history = source.facts.config.get("history") or []
            if not _goes_on(source, above, past) or not _says(history[len(past)], done):
                continue
            self._sources = [source]
            if len(history) == len(past) + 1:
                if above is not None:
                    await self._images.adopt(source.id, above.id)
                return await self._images.resolve(source.id)
            return await self._restored(source, above, history[: len(past) + 1], done)
        return None

    async def _restored(
        self, source: Entry, above: Entry | None, history: Sequence[Document], done: Document
    ) -> ImageInfo:
        step, facts = history[-1], source.facts
        # Counted from the end: the first layers may have no history.
        whole = facts.config.get("history") or []
        later = sum(1 for entry in whole[len(history) :] if not entry.get("empty_layer"))
        place = len(facts.diff_ids) - later - 1
        layer = None
        if not step.get("empty_layer"):
            layer = making.Layer(facts.layers[place], facts.diff_ids[place])
        document = {
            "author": facts.config.get("author", ""),
            "config": done,
            "created": step.get("created"),
            "architecture": facts.platform.architecture,
            "os": facts.platform.os,
            "history": [{name: value for name, value in step.items() if name != "empty_layer"}],
        }
        async with self._images.client.leased() as client:
            made = await making.assemble(
                self._images, client, above.facts if above else None, layer, document
            )
            await self._images.name(made, [], client=client)
            if above is not None:
                await self._images.adopt(made.id, above.id)
        return await self._images.resolve(made.id)


def _goes_on(source: Entry, above: Entry | None, past: Sequence[Document]) -> bool:
    history = source.facts.config.get("history") or []
    layers = above.facts.diff_ids if above else ()
    return (
        len(history) > len(past)
        and list(history[: len(past)]) == list(past)
        and source.facts.diff_ids[: len(layers)] == layers
    )


def _says(step: Document, done: Document) -> bool:
    return bool(step.get("created_by", "") == " ".join(done.get("Cmd") or ()))
