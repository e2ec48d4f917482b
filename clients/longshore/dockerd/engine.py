"""What the parts of dockerd know of each other: contracts only.

`main.py` makes one of each and hands the `Engine` to the routes. A part takes
the parts it needs as constructor arguments, typed by these protocols.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from longshore.api.types.mount_pb2 import Mount
    from longshore.client import AsyncClient
    from longshore.dockerd.backend.containers import Containers
    from longshore.dockerd.build.builder import Builder
    from longshore.dockerd.config import Config
    from longshore.dockerd.events import Events
    from longshore.dockerd.images.store import Images
    from longshore.dockerd.network.manager import Networks
    from longshore.dockerd.records import Container
    from longshore.dockerd.state import State
    from longshore.dockerd.volumes.manager import Volumes
    from longshore.zygote.client import Zygote


@dataclass
class Engine:
    """Everything that a route may ask."""

    config: Config
    client: AsyncClient
    state: State
    zygote: Zygote
    events: Events
    images: Images
    volumes: Volumes
    networks: Networks
    containers: Containers
    builder: Builder


class ImageInfo(NamedTuple):
    """An image as containers and builds need it."""

    id: str
    """"sha256:..." of the config."""
    config: dict[str, Any]
    """The whole OCI image config (its "config" member holds Env, Cmd, ...)."""
    chain_id: str
    """Key of the committed snapshot, "" for an image without layers."""
    manifest: str
    """Digest of the manifest."""
    names: tuple[str, ...]
    """Familiar references ("busybox:latest")."""


class ImageSource(Protocol):
    """Implemented by images.store.Images."""

    @abstractmethod
    async def resolve(self, reference: str) -> ImageInfo:
        """By name, ID or unambiguous prefix of the ID; unpacked afterwards. NotFound: "No such image: NAME:TAG"."""

    @abstractmethod
    async def make(
        self, parent: ImageInfo | None, snapshot: str, config: dict[str, Any], names: Sequence[str] = ()
    ) -> ImageInfo:
        """A new image: the parent's layers, the difference between `snapshot` (an active key; "" = no new layer) and
        the parent, and `config` (rootfs and history are filled in here)."""


class NetworkPlace(NamedTuple):
    """Where a container's network is, for its spec."""

    path: str
    """Of the network namespace; "" with host networking."""
    files: Mapping[str, str]
    """Target in the container ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf") -> file on the host."""


class NetworkSource(Protocol):
    """Implemented by network.manager.Networks."""

    @abstractmethod
    async def join(self, container: Container) -> NetworkPlace:
        """Make namespace, endpoints, addresses, published ports and files, as container.host_config and
        container.networks ask; fills container.networks[...] and container.ports in. Undone as a whole on failure."""

    @abstractmethod
    async def leave(self, container: Container) -> None:
        """Undo `join`; twice is once. Configured addresses and aliases stay in the record."""


class VolumeSource(Protocol):
    """Implemented by volumes.manager.Volumes."""

    @abstractmethod
    async def use(
        self,
        name: str,
        container: str,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Make the volume if it isn't there, count the container as its user: path on the host. An anonymous one:
        name 64 hex digits, labels `{volumes.documents.ANONYMOUS: ""}`."""

    @abstractmethod
    async def mount(self, name: str, container: str) -> str:
        """At each start of the container, before its task: mounts what the volume's options name (twice is once)."""

    @abstractmethod
    async def unmount(self, name: str, container: str) -> bool:
        """When the container has stopped."""

    @abstractmethod
    async def fill(
        self, container: str, mounts: Sequence[Mount], places: Mapping[str, str], *, rootfs: str = ""
    ) -> None:
        """Copy-up of all volumes of a container at once, by a worker that mounts its root (Snapshots.Mounts) for
        itself; `places`: target -> volume."""

    @abstractmethod
    async def release(self, name: str, container: str) -> None: ...

    @abstractmethod
    def populate(self, name: str, rootfs: str, target: str) -> AbstractAsyncContextManager[None]:
        """Copy what the image has at `target` into a volume that is empty (copy-up)."""


class LogEntry(NamedTuple):
    stream: str  # "stdout" or "stderr"
    time_ns: int
    line: bytes  # with its newline, if it had one
    attributes: Mapping[str, str] = {}


class Attachment(Protocol):
    """A live connection to a container's streams, by way of its logger process."""

    @abstractmethod
    def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """("stdout"|"stderr", data) as printed from now on; ends when the container's streams do."""

    @abstractmethod
    async def write(self, data: bytes) -> None: ...

    @abstractmethod
    async def close_stdin(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...


class StdioPaths(NamedTuple):
    """For Tasks.Create: FIFO paths, "" for what isn't wanted."""

    stdin: str
    stdout: str
    stderr: str
    terminal: bool


class LogSource(Protocol):
    """Implemented by logs.manager.Logs: one logger process per running container, which outlives dockerd."""

    @abstractmethod
    async def open(self, container: Container) -> StdioPaths:
        """FIFOs in the container's folder and a logger that reads them (log driver and options of the record). It
        ends when the last writer of the FIFOs has closed them."""

    @abstractmethod
    async def attach(self, container: Container) -> Attachment:
        """To the running logger; output that was printed before isn't repeated. May be called after `open` and before
        the task is started, and then misses nothing."""

    @abstractmethod
    def read(
        self, container: Container, *, follow: bool, tail: int | None, since_ns: int = 0, until_ns: int = 0
    ) -> AsyncIterator[LogEntry]:
        """What is recorded; with `follow` until the container has stopped. Unimplemented:
        "configured logging driver does not support reading" where it can't."""

    @abstractmethod
    async def ended(self, container: Container) -> None:
        """Wait (bounded: 2 s) until the logger has written all; called when the task has exited."""

    @abstractmethod
    async def remove(self, container: Container) -> None: ...
