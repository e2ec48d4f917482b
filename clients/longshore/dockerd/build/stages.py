"""A stage while it is built, and those that are finished."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from longshore.dockerd.build import configs
from longshore.dockerd.build.arguments import Arguments
from longshore.dockerd.build.cache import Cache
from longshore.dockerd.build.words import Expander
from longshore.dockerd.build.work import Work
from longshore.dockerd.engine import ImageInfo
from longshore.dockerd.errors import ServerError
from longshore.dockerd.images import names
from longshore.dockerd.records import ContainerConfig
from longshore.dockerd.version import VERSION


@dataclass
class Stage:
    """`image` is what the last step made; None before the first of a stage that is made from scratch."""

    work: Work
    arguments: Arguments
    cache: Cache
    finished: Finished
    name: str = ""
    image: ImageInfo | None = None
    config: ContainerConfig = field(default_factory=ContainerConfig)
    author: str = ""
    has_command: bool = False
    """A CMD of this Dockerfile's own: an ENTRYPOINT leaves it."""
    begun: bool = False

    def begin(self, image: ImageInfo | None) -> None:
        """FROM."""
        self.image, self.begun = image, True
        self.config = configs.of_image(image.config) if image else ContainerConfig()
        variables = {entry.partition("=")[0] for entry in self.config.env or ()}
        if "PATH" not in variables:
            configs.set_variable(self.config, "PATH", configs.DEFAULT_PATH)
        self.config.open_stdin = self.config.stdin_once = False

    @property
    def id(self) -> str:
        return self.image.id if self.image else ""

    @property
    def short_id(self) -> str:
        return names.short(self.id)

    @property
    def expander(self) -> Expander:
        """With the variables that a step may name: the environment goes before arguments."""
        env = dict(entry.partition("=")[::2] for entry in self.config.env or ())
        return Expander(self.work.escape, {**self.arguments.values(), **env})

    async def hit(self, done: ContainerConfig) -> bool:
        """Whether the step was done before; the stage then goes on from its image."""
        found = await self.cache.probe(self.image, configs.document(done))
        if found is None:
            return False
        await self.work.output.say(" ---> Using cache\n")
        self.image = found
        return True

    async def make(self, done: ContainerConfig, snapshot: str = "", container: str = "") -> None:
        """The step's image: the stage's configuration, and what `snapshot` has over the image before.

        `done` is the configuration of the container that did it, or would have.
        """
        document: dict[str, Any] = {
            "config": configs.document(self.config),
            "container_config": configs.document(done),
            "docker_version": VERSION,
        }
        if self.author:
            document["author"] = self.author
        if container:
            document["container"] = container
        # A container's own may still be looked at; what we made for a copy is of no more use.
        self.image = await self.work.images.make(self.image, snapshot, document, consume=not container)


class Finished:
    """Stages by name and number."""

    def __init__(self) -> None:
        self._stages: list[Stage] = []

    def add(self, stage: Stage) -> None:
        self.check_name(stage.name)
        self._stages.append(stage)

    def check_name(self, name: str) -> None:
        if name and self.named(name) is not None:
            raise ServerError(f"{name} stage name already used")

    def named(self, name: str) -> Stage | None:
        return next((stage for stage in self._stages if stage.name and stage.name == name.lower()), None)

    def get(self, text: str) -> Stage | None:
        """By name or number. Raises ServerError for a number that no finished stage has."""
        found = self.named(text)
        if found is not None or not text.isdigit():
            return found
        number = int(text)
        if number == len(self._stages):
            raise ServerError("refers to current build stage")
        if number > len(self._stages):
            raise ServerError("index out of bounds")
        return self._stages[number]
