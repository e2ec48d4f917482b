"""POST /images/create?fromImage=: from a registry into the store, with the original's lines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from longshore.api import errors
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.client import AsyncClient, oci
from longshore.client.images import Record
from longshore.client.pull import Wish, fetch_image
from longshore.client.registries import Progress
from longshore.client.remote import remote
from longshore.dockerd.images import names, registries
from longshore.dockerd.images.catalogue import MANIFEST_LABEL, OWNER, SNAPSHOTTER, Facts
from longshore.dockerd.images.names import Reference
from longshore.dockerd.images.progress import Layers, Line
from longshore.dockerd.images.registries import Auth
from longshore.dockerd.images.running import Say, lines_of

if TYPE_CHECKING:
    from longshore.dockerd.images.store import Images


async def pull(
    images: Images, reference: Reference, auth: Auth, platform: oci.Platform | None, *, every: bool
) -> AsyncIterator[Line]:
    """One image, or with `every` all tags of the repository. Errors are in the original's words."""
    newer = False
    for one in await _all_tags(images, reference, auth) if every else [reference]:
        work = _Pull(images, one, auth, platform)
        async for line in lines_of(work.run):
            yield line
        newer |= work.newer
    name = names.familiar_name(reference) if every else names.familiar(reference)
    yield {"status": f"Status: {'Downloaded newer image' if newer else 'Image is up to date'} for {name}"}


async def _all_tags(images: Images, reference: Reference, auth: Auth) -> Sequence[Reference]:
    options = registries.options(images.config, reference, auth, pull=True)
    try:
        async with remote(str(reference), options) as door:
            tags = await door.tags()
    except errors.Error as error:
        raise registries.pull_error(error, reference) from None
    return [reference._replace(tag=tag, digest="") for tag in tags]


class _Pull:
    def __init__(
        self, images: Images, reference: Reference, auth: Auth, platform: oci.Platform | None
    ) -> None:
        self._images, self._reference, self._auth = images, reference, auth
        self._platform = platform
        self._layers = Layers()
        self._target = Descriptor()
        self._facts: Facts | None = None
        self.newer = True

    async def _known(self) -> set[str]:
        """Digests of manifests and indexes whose images are here."""
        entries = (await self._images.catalogue.entries()).values()
        targets = {record.target.digest for entry in entries for record in entry.records}
        return targets | {entry.facts.manifest.digest for entry in entries}

    async def run(self, say: Say) -> None:
        reference, known, config = self._reference, await self._known(), self._images.config

        def news(progress: Progress) -> None:
            if progress.stage == "resolved":
                say({"status": f"Pulling from {reference.path}", "id": reference.object})
                if progress.digest in known:  # then layers that are here aren't worth a line
                    self._layers.hide_existing = True
            for line in self._layers.pulled(progress):
                say(line)

        try:
            await fetch_image(
                self._images.client,
                str(reference),
                Wish(self._platform, snapshotter=SNAPSHOTTER, downloads=config.max_concurrent_downloads),
                self._record,
                registry=registries.options(config, reference, self._auth, pull=True),
                progress=news,
                owner=OWNER,
            )
        except errors.Error as error:
            raise self._explained(error) from None
        self._conclude(say)

    def _explained(self, error: errors.Error) -> errors.Error:
        if self._platform is not None and " there is " in error.message:
            return errors.NotFound(f"no matching manifest for {self._platform} in the manifest list entries")
        return registries.pull_error(error, self._reference)

    async def _record(self, client: AsyncClient, target: Descriptor, manifests: Sequence[Descriptor]) -> None:
        manifest = manifests[0].digest
        labels = {MANIFEST_LABEL: manifest} if manifest != target.digest else {}
        facts = await self._images.catalogue.look(Record(name="", target=target, labels=labels))
        if facts is None:
            raise errors.InvalidArgument(
                f"{names.familiar(self._reference)} is no container image: it has another kind of content"
            )
        self._target, self._facts = target, facts
        self.newer = await self._images.id_of(self._reference) != facts.id
        tags = [self._reference._replace(digest="")] if not self._reference.digest else []
        digest = self._reference._replace(tag="", digest=target.digest)
        await self._images.name(facts, [*tags, digest], target=target, client=client, tagged=False)

    def _conclude(self, say: Say) -> None:
        assert self._facts is not None
        name = names.familiar(self._reference)
        found = self._facts.platform
        if self._platform is not None and not oci.matches(self._platform, found._asdict()):
            say(
                {
                    "status": f"WARNING: image with reference {name} was found but does not match the"
                    f" specified platform: wanted {self._platform}, actual: {found}"
                }
            )
        say({"status": f"Digest: {self._target.digest}"})
        self._images.publish("pull", name, self._facts, names.familiar_name(self._reference))
