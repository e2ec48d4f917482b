"""One request and its answer: h11 on one side, the `Call` that handlers see on the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus as Reasons
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import h11
import msgspec

from longshore.api import errors
from longshore.dockerd import decoding, websocket
from longshore.dockerd.errors import ServerError
from longshore.dockerd.http import Answer, Version
from longshore.dockerd.stream import Stream

T = TypeVar("T")

MAX_HEAD: Final = 1 << 20  # bytes of request line and headers; X-Registry-Config holds every registry's login
MAX_JSON: Final = 16 << 20  # bytes of a JSON body
JSON_SECONDS: Final = 60.0  # for a JSON body to arrive
BOOLEANS: Final = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("", "0", "f", "F", "false", "FALSE", "False"), False),
}
FALSE: Final = frozenset({"", "0", "no", "false", "none"})


class Headers(Mapping[str, str]):
    """By name in any case; of a repeated header the first."""

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            self._values.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Exchange:
    """The connection as one request and its answer use it: bytes of h11 to and from a `Stream`."""

    def __init__(self, stream: Stream, http: h11.Connection, common: Mapping[str, str]) -> None:
        self.stream, self.http = stream, http
        self._common = common
        self.begun = False
        """The answer's head is on its way."""
        self.read = asyncio.Event()
        """Set once the whole request was read."""
        self.status = 0

    async def event(self) -> Any:
        """The next event of the client's."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            if self.http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
            self.http.receive_data(await self.stream.read())
        if isinstance(event, h11.EndOfMessage):
            self.read.set()
        return event

    @staticmethod
    def has_body(request: h11.Request) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
            for name, value in request.headers
        )

    async def body(self) -> AsyncIterator[bytes]:
        while not self.read.is_set():
            event = await self.event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    async def answer(self, answer: Answer) -> None:
        """All of an answer in one write."""
        body, kind = encoded(answer)
        bodiless = answer.status in (204, 304)
        headers = {} if bodiless else {"Content-Length": str(len(body))}
        if body and not bodiless:
            headers["Content-Type"] = kind
        data = self._head(answer.status, headers | dict(answer.headers))
        if body and not bodiless and not self._headless:
            data += self._encoded(h11.Data(data=body))
        await self.stream.write(data + self._encoded(h11.EndOfMessage()))

    async def begin(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
        """An answer in pieces follows."""
        pieces = {"Content-Type": kind, "Transfer-Encoding": "chunked"}
        await self.stream.write(self._head(status, pieces | dict(headers)))

    async def piece(self, data: bytes) -> None:
        if data and not self._headless:
            await self._send(h11.Data(data=data))

    async def end(self) -> None:
        await self._send(h11.EndOfMessage())

    @property
    def _headless(self) -> bool:
        return self._request_method == b"HEAD"

    _request_method = b""

    def method_is(self, method: bytes) -> None:
        self._request_method = method

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        self.begun, self.status = True, status
        pairs = [
            (name.encode(), value.encode())
            for name, value in {**self._common, "Date": now(), **headers}.items()
        ]
        return self._encoded(h11.Response(status_code=status, headers=pairs, reason=reason(status)))

    def _encoded(self, event: h11.Event) -> bytes:
        return self.http.send(event) or b""

    async def _send(self, event: h11.Event) -> None:
        if data := self._encoded(event):
            await self.stream.write(data)


def now() -> str:
    return _date(int(time.time()))


@lru_cache(1)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def reason(status: int) -> bytes:
    try:
        return Reasons(status).phrase.encode()
    except ValueError:
        return b""


def encoded(answer: Answer) -> tuple[bytes, str]:
    """Body and type of an answer."""
    if answer.body is None:
        return b"", ""
    if isinstance(answer.body, bytes):
        return answer.body, answer.content_type
    return msgspec.json.encode(answer.body) + b"\n", answer.content_type


class Taken:
    """`Hijacked`: the stream, after the bytes that had arrived behind the request."""

    def __init__(self, stream: Stream, arrived: bytes) -> None:
        self._stream, self._arrived = stream, arrived

    async def read(self) -> bytes:
        if self._arrived:
            data, self._arrived = self._arrived, b""
            return data
        return await self._stream.read()

    async def write(self, data: bytes) -> None:
        if data:
            await self._stream.write(data)

    async def close_write(self) -> None:
        await self._stream.close_write()

    async def close(self) -> None:
        await self._stream.close()

    async def gone(self) -> None:
        await self._stream.gone()


class Pieces:
    """`Streamed`."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def write(self, data: bytes) -> None:
        await self._exchange.piece(data)

    async def line(self, document: Any) -> None:
        await self._exchange.piece(msgspec.json.encode(document) + b"\r\n")


class Request:
    """`Call`. `streaming` is called when the answer begins in pieces."""

    def __init__(
        self,
        exchange: Exchange,
        request: h11.Request,
        target: tuple[str, Mapping[str, str], Version],
        streaming: Callable[[], None],
        hijackable: bool,
    ) -> None:
        query, self.path, self.version = target
        self.method = request.method.decode("latin-1")
        self.headers: Mapping[str, str] = Headers(request.headers)
        self._pairs = parse_qsl(query, keep_blank_values=True, errors="replace")
        self.query: Mapping[str, str] = dict(reversed(self._pairs))
        self._exchange = exchange
        self._streaming = streaming
        self._hijackable = hijackable
        self.content_type = ""
        self.taken: Taken | None = None

    # -- what was asked

    def flag(self, name: str, default: bool = False) -> bool:
        if name not in self.query:
            return default
        return self.query[name].strip().lower() not in FALSE

    def boolean(self, name: str) -> bool:
        value = self.query.get(name, "")
        if value not in BOOLEANS:
            raise errors.InvalidArgument(
                f'invalid value for {name}: {value}: strconv.ParseBool: parsing "{value}": invalid syntax'
            )
        return BOOLEANS[value]

    def integer(self, name: str, default: int | None = None) -> int | None:
        value = self.query.get(name, "").strip()
        if not value:
            return default
        try:
            number = int(value, 10)
        except ValueError:
            raise errors.InvalidArgument(f"invalid value for {name}: {value!r} is not a number") from None
        if not -(1 << 63) <= number < 1 << 63:
            raise errors.InvalidArgument(f"invalid value for {name}: {value} is out of range")
        return number

    def values(self, name: str) -> list[str]:
        return [value for key, value in self._pairs if key == name]

    def filters(self, allowed: frozenset[str], *, ignore_others: bool = False) -> dict[str, list[str]]:
        return decoding.filters(self.query.get("filters", ""), allowed, ignore_others=ignore_others)

    async def json(self, kind: type[T]) -> T:
        length = self.headers.get("content-length", "")
        chunked = "transfer-encoding" in self.headers
        declared = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if (chunked or length not in ("", "0")) and declared not in ("application/json", ""):
            raise errors.InvalidArgument(
                f"unsupported Content-Type header ({declared}): must be 'application/json'"
            )
        return decoding.decode(await self._whole(), kind)

    async def _whole(self) -> bytes:
        data = bytearray()
        try:
            async with asyncio.timeout(JSON_SECONDS):
                async for block in self._exchange.body():
                    data += block
                    if len(data) > MAX_JSON:
                        raise errors.InvalidArgument(f"the request's body is longer than {MAX_JSON} bytes")
        except TimeoutError:
            raise errors.DeadlineExceeded("the request's body did not arrive") from None
        return bytes(data)

    def body(self) -> AsyncIterator[bytes]:
        return self._exchange.body()

    # -- the answer

    async def stream(
        self,
        content_type: str = "application/json",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Pieces:
        self.content_type = content_type
        await self._exchange.begin(status, content_type, headers or {})
        self._streaming()
        return Pieces(self._exchange)

    async def hijack(self, content_type: str) -> Taken:
        upgrade = self.headers.get("upgrade", "")
        lines = ["HTTP/1.1 200 OK"]
        if upgrade:
            protocol = "h2c" if upgrade.lower() == "h2c" else "tcp"
            lines = ["HTTP/1.1 101 UPGRADED", "Connection: Upgrade", f"Upgrade: {protocol}"]
        if content_type:
            lines.append(f"Content-Type: {content_type}")
        return await self._take(101 if upgrade else 200, "\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def websocket(self) -> websocket.WebSocket:
        taken = await self._take(101, websocket.handshake(self.headers))
        return websocket.WebSocket(taken, websocket.BINARY if self.version >= (1, 28) else websocket.TEXT)

    async def _take(self, status: int, head: bytes) -> Taken:
        if not self._hijackable:
            raise ServerError("this route does not take connections over")
        await self._whole()
        arrived, _ = self._exchange.http.trailing_data
        self.taken = Taken(self._exchange.stream, arrived)
        self._exchange.begun, self._exchange.status = True, status
        await self._exchange.stream.write(head)
        return self.taken
