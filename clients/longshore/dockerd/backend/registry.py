"""All containers: in memory, by ID and name, and their records on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from longshore.api.errors import InvalidArgument, NotFound
from longshore.dockerd.backend import names
from longshore.dockerd.backend.live import Live
from longshore.dockerd.errors import Conflict
from longshore.dockerd.records import Container, named_links
from longshore.dockerd.state import Delete, Put

if TYPE_CHECKING:
    from longshore.dockerd.state import State

KIND: Final = "containers"
_HEX = re.compile(r"[0-9a-f]{1,64}")


class Registry:
    def __init__(self, state: State) -> None:
        self._state = state
        self._live: dict[str, Live] = {}
        self._names: dict[str, str] = {}

    def load(self) -> None:
        for id, record in self._state.load(KIND, Container).items():
            self._live[id] = Live(record)
            self._names[record.name] = id

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        return len(self._live)

    def get(self, id: str) -> Live | None:
        """By the whole ID."""
        return self._live.get(id)

    def find(self, name: str) -> Live:
        """By ID, name (with or without its slash), or unambiguous prefix of the ID.

        Raises NotFound: "No such container: NAME", InvalidArgument for "" and an ambiguous prefix.
        """
        found = self._live.get(name) or self._live.get(self._names.get(name.removeprefix("/"), ""))
        if found is not None:
            return found
        if not name:
            raise InvalidArgument('invalid name or ID supplied: ""')
        matches = [id for id in self._live if id.startswith(name)] if name and _HEX.fullmatch(name) else []
        if len(matches) > 1:
            raise InvalidArgument(f"Multiple IDs found with provided prefix: {name}")
        if not matches:
            raise NotFound(f"No such container: {name}")
        return self._live[matches[0]]

    # Names are reserved before a record exists, so that two creates can't both have one.

    def reserve(self, name: str, id: str) -> str:
        """The name without its slash, a generated one for "". Raises Conflict, InvalidArgument."""
        name = names.check(name) if name else names.generate(self._names.__contains__)
        holder = self._names.setdefault(name, id)
        if holder != id:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        return name

    def release(self, name: str, id: str) -> None:
        if self._names.get(name) == id:
            del self._names[name]

    async def add(self, live: Live) -> None:
        """Durable, then visible; its name has been reserved."""
        await self._state.commit(Put(KIND, live.id, live.record))
        self._live[live.id] = live

    async def save(self, live: Live, draft: Container | None = None) -> None:
        """Commit the draft (without one: the record as it is), then show it."""
        draft = live.record if draft is None else draft
        await self._state.commit(Put(KIND, live.id, draft))
        if draft is not live.record:
            live.take(draft)

    async def delete(self, live: Live) -> None:
        """From the disk only: the ID and the name are taken until `drop`."""
        await self._state.commit(Delete(KIND, live.id))

    def drop(self, live: Live) -> None:
        self._live.pop(live.id, None)
        self.release(live.record.name, live.id)

    # Legacy links: a container may be known under other names, below those that link to it.

    def aliases(self, live: Live) -> list[str]:
        """ "/parent/alias" of each container that links to this one."""
        return [
            f"/{parent.record.name}/{alias}"
            for parent in self._live.values()
            for target, alias in named_links(parent.record.host_config.links or ())
            if self._links_to(target, live)
        ]

    def _links_to(self, target: str, live: Live) -> bool:
        return target in (live.record.name, live.id) or self._names.get(target) == live.id
