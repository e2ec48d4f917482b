"""POST /images/{name}/push: from the store to a registry, with the original's lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from longshore.api import errors
from longshore.client.registries import Progress, reason, source_label, sources, with_source
from longshore.dockerd.errors import ServerError
from longshore.dockerd.images import names, registries
from longshore.dockerd.images.catalogue import Entry, Facts
from longshore.dockerd.images.names import Reference
from longshore.dockerd.images.progress import Layers, Line, line
from longshore.dockerd.images.registries import Auth
from longshore.dockerd.images.running import Say, lines_of

if TYPE_CHECKING:
    from longshore.dockerd.images.store import Images


async def push(images: Images, repository: Reference, tag: str, auth: Auth) -> AsyncIterator[Line]:
    """One tag, or with "" every tag of the repository. Raises ServerError in the original's words."""
    yield {"status": f"The push refers to repository [{repository.repository}]"}
    entries = (await images.catalogue.entries()).values()
    local = {
        reference.tag: (reference, entry)
        for entry in entries
        for reference in entry.tags
        if reference.repository == repository.repository
    }
    if not local:
        raise ServerError(f"An image does not exist locally with the tag: {names.familiar_name(repository)}")
    if tag and tag not in local:
        raise ServerError(f"tag does not exist: {names.familiar_name(repository)}:{tag}")
    for chosen in [tag] if tag else sorted(local):
        reference, entry = local[chosen]
        async for said in lines_of(_Push(images, reference, entry, auth).run):
            yield said


class _Push:
    def __init__(self, images: Images, reference: Reference, entry: Entry, auth: Auth) -> None:
        self._images, self._reference, self._auth = images, reference, auth
        self._facts: Facts = entry.facts
        # Clients know a layer by its DiffID, the registry by the digest of its packed form.
        self._shown = dict(
            zip((layer.digest for layer in self._facts.layers), self._facts.diff_ids, strict=True)
        )
        self._layers = Layers()

    async def _origins(self) -> dict[str, str]:
        """Of each layer, the repository of the same registry that it can be mounted from."""
        found = {}
        for digest in self._shown:
            labels = (await self._images.client.content.info(digest)).labels
            listed = sources(labels, self._reference.domain)
            found[digest] = next((path for path in listed if path != self._reference.path), "")
        return found

    async def run(self, say: Say) -> None:
        origins = await self._origins()
        for layer in self._facts.layers:
            say(line("Preparing", self._shown[layer.digest]))

        def news(progress: Progress) -> None:
            shown = self._shown.get(progress.digest)
            if shown is not None:
                for each in self._layers.pushed(progress, shown, origins[progress.digest]):
                    say(each)

        manifest = self._facts.manifest
        try:
            await self._images.client.images.push(
                str(self._reference),
                target=manifest,
                uploads=self._images.config.max_concurrent_uploads,
                registry=registries.options(self._images.config, self._reference, self._auth, pull=False),
                progress=news,
            )
        except errors.Error as error:
            raise _explained(error, self._reference) from None
        await self._remember()
        tag, size = self._reference.tag, manifest.size
        say({"status": f"{tag}: digest: {manifest.digest} size: {size}"})
        say({"progressDetail": {}, "aux": {"Tag": tag, "Digest": manifest.digest, "Size": size}})
        self._images.publish(
            "push",
            names.familiar(self._reference),
            self._facts,
            names.familiar_name(self._reference),
        )

    async def _remember(self) -> None:
        """The registry has it by this digest now: one more name. And its layers can be mounted from there."""
        content, label = self._images.client.content, source_label(self._reference.domain)
        for blob in (self._facts.config_blob, *self._facts.layers):
            present = (await content.info(blob.digest)).labels.get(label, "")
            await content.label(blob.digest, {label: with_source(present, self._reference.path)})
        digest = self._reference._replace(tag="", digest=self._facts.manifest.digest)
        await self._images.name(self._facts, [digest], tagged=False)


def _explained(error: errors.Error, reference: Reference) -> errors.Error:
    said = reason(error)
    if isinstance(error, errors.PermissionDenied):
        said = said or "denied: requested access to the resource is denied"
    return ServerError(said) if said else registries.server_error(error, reference)
