"""What a route is, and what its handler is given: no sockets here.

A routes module is a table::

    ROUTES = (
        Route("GET", "/containers/json", listing),
        Route("POST", "/containers/{name}/attach", attach, hijacks=True),
    )

and each handler ``async def listing(engine: Engine, call: Call) -> Answer``.
The server (`server.py`) strips ``/v1.NN``, negotiates the version, decodes,
and turns what a handler raises into a status by `errors.HTTPStatus`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from longshore.api.errors import InvalidArgument

if TYPE_CHECKING:
    from longshore.dockerd.engine import Engine

T = TypeVar("T")

Version = tuple[int, int]


class Answer(NamedTuple):
    """A whole answer. `body` is JSON-encoded by msgspec unless it is bytes; None is an empty body."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = {}
    content_type: str = "application/json"


class Hijacked(Protocol):
    """A connection that is no longer HTTP: bytes both ways, each side closed by itself."""

    @abstractmethod
    async def read(self) -> bytes:
        """What has arrived; b"" once the client has closed its writing side (ours stays open)."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Returns when the client's window has room again; ConnectionError once it is gone."""

    @abstractmethod
    async def close_write(self) -> None:
        """Half-close: EOF for the client (close_notify on TLS); reading goes on."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def gone(self) -> None:
        """Return when the connection is lost as a whole."""


class Streamed(Protocol):
    """An answer in pieces (chunked): JSON lines, log frames, a tar."""

    @abstractmethod
    async def write(self, data: bytes) -> None: ...

    @abstractmethod
    async def line(self, document: Any) -> None:
        """One JSON document and CR LF, as the original's progress streams have it."""


class Call(Protocol):
    """One request. `version` is what client and server agreed on."""

    version: Version
    method: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @abstractmethod
    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean of the query, as Go's engine reads it: "", 0, no, false, none are false, all else is true."""

    @abstractmethod
    def boolean(self, name: str) -> bool:
        """One that is read strictly, where the original does; InvalidArgument if it is there and no boolean."""

    @abstractmethod
    def integer(self, name: str, default: int | None = None) -> int | None:
        """InvalidArgument if it is there and no number."""

    @abstractmethod
    def values(self, name: str) -> list[str]:
        """Every value of a repeated parameter (`names=a&names=b`, `t=x&t=y`)."""

    @abstractmethod
    def filters(self, allowed: frozenset[str], *, ignore_others: bool = False) -> dict[str, list[str]]:
        """The `filters` parameter, both of its forms; InvalidArgument names an unknown filter, unless others than
        `allowed` are to be ignored."""

    @abstractmethod
    async def json(self, kind: type[T]) -> T:
        """The body, decoded and checked; InvalidArgument says what is wrong and where."""

    @abstractmethod
    def body(self) -> AsyncIterator[bytes]:
        """The body in blocks, for archives and contexts."""

    @abstractmethod
    async def stream(
        self,
        content_type: str = "application/json",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Streamed:
        """Begin the answer; the handler returns None afterwards. An error raised later becomes the stream's last
        line `{"errorDetail": {...}, "error": "..."}` where the type is JSON."""

    @abstractmethod
    async def hijack(self, content_type: str) -> Hijacked:
        """Take the connection (route with `hijacks`): 101 with Upgrade: tcp where asked for, else 200. Errors before
        this are plain answers."""

    @abstractmethod
    async def websocket(self) -> Hijacked:
        """Take the connection (route with `hijacks`) as a websocket: what clients' messages hold, and messages of
        ours. InvalidArgument for a request that is no handshake."""


async def short_body(call: Call, most: int) -> bytes:
    """The body, which InvalidArgument refuses if it has more than `most` bytes. For one that may be absent."""
    data = b""
    async for block in call.body():
        data += block
        if len(data) > most:
            raise InvalidArgument("the request's body is too long")
    return data


Handler = Callable[["Engine", Call], Awaitable[Answer | None]]


class Route(NamedTuple):
    """`path` as in the API's description; `{name}` takes slashes too (image names)."""

    method: str
    path: str
    handler: Handler
    since: Version = (1, 24)
    hijacks: bool = False
