"""gRPC calls as HTTP/2 frames (RFC 9113), the client's half, without I/O: bytes in, messages and statuses out.

A `Conversation` is one connection from its preface to its end. `open` starts a
call, `receive` takes what has come; after either, `take` has what is to be
written, and `changed` the calls that something happened to. A `Stream` is one call: `messages` that have
arrived, the initial `headers`, and a `status` once it is over, which every
stream gets: when a connection is lost, all of its streams end Unavailable.

Flow control: what arrives is credited to its connection at once, and to its
stream when the messages before it have been popped. So a slow reader holds up
its own call, with at most `WINDOW` bytes kept here, and no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from struct import Struct
from struct import error as StructError

from longshore.client.wire import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6

NO_ERROR = 0x0
PROTOCOL_ERROR = 0x1
FLOW_CONTROL_ERROR = 0x3
FRAME_SIZE_ERROR = 0x6
REFUSED_STREAM = 0x7
CANCEL = 0x8
COMPRESSION_ERROR = 0x9
ENHANCE_YOUR_CALM = 0xB
INADEQUATE_SECURITY = 0xC

OK = 0
CANCELED = 1
UNKNOWN = 2
RESOURCE_EXHAUSTED = 8
INTERNAL = 13
UNAVAILABLE = 14

MESSAGE_LIMIT = 16 << 20
METADATA_LIMIT = 1 << 20
WINDOW = 4 << 20
CONNECTION_WINDOW = 16 << 20
FRAME_LIMIT = 1 << 20

_DEFAULT_WINDOW = 65535
_DEFAULT_FRAME = 16384
_MAX_WINDOW = 2**31 - 1
_LAST_NUMBER = 2**31 - 1

_SETTING = Struct(">HI")
_WORD = Struct(">I")
_MESSAGE = Struct(">BI")

# What a stream's reset means, and an HTTP status without a gRPC one; the rest are INTERNAL and UNKNOWN.
_BY_RESET = {NO_ERROR: 13, REFUSED_STREAM: 14, CANCEL: 1, ENHANCE_YOUR_CALM: 8, INADEQUATE_SECURITY: 7}
_BY_HTTP = {"400": 13, "401": 16, "403": 7, "404": 12, "429": 14, "502": 14, "503": 14, "504": 14}


class _Broken(Exception):
    """The peer broke the protocol: error code and words."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Stream:
    """One call. Read `messages` (by `Conversation.pop`), `headers`, `status` and `details`."""

    def __init__(self, opening: bytes) -> None:
        self.number = 0
        """0 until the peer has room for it."""
        self.messages: deque[bytes] = deque()
        self.headers: dict[str, str] | None = None
        """The initial metadata; None until it has come."""
        self.status: int | None = None
        """The gRPC status; None while the call goes on. Messages may still wait."""
        self.details = ""
        self.opening = opening
        self.unsent: deque[memoryview] = deque()
        self.finishing = False
        self.finished = False
        self.window = 0
        self.partial = bytearray()
        self.uncredited = 0


def frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + _WORD.pack(number) + payload


def _opening() -> bytes:
    settings = {
        HEADER_TABLE_SIZE: 0,
        ENABLE_PUSH: 0,
        INITIAL_WINDOW_SIZE: WINDOW,
        MAX_FRAME_SIZE: FRAME_LIMIT,
        MAX_HEADER_LIST_SIZE: METADATA_LIMIT,
    }
    packed = b"".join(_SETTING.pack(name, value) for name, value in settings.items())
    more = _WORD.pack(CONNECTION_WINDOW - _DEFAULT_WINDOW)
    return PREFACE + frame(SETTINGS, 0, 0, packed) + frame(WINDOW_UPDATE, 0, 0, more)


class Conversation:
    """A connection just opened; its opening bytes are ready to be taken."""

    def __init__(self) -> None:
        self.greeted = False
        """Whether the peer's settings have come: somebody is there."""
        self.lost = ""
        """Why the connection is over; empty while it isn't."""
        self.leaving = False
        """The peer takes no more calls; those under way go on."""
        self._out: list[bytes | memoryview] = [_opening()]
        self._widened = False
        self._in = bytearray()
        self._streams: dict[int, Stream] = {}
        self._waiting: deque[Stream] = deque()
        self._touched: list[Stream] = []
        self._next = 1
        self._window = _DEFAULT_WINDOW
        self._initial_window = _DEFAULT_WINDOW
        self._frame_limit = _DEFAULT_FRAME
        self._limit = _MAX_WINDOW
        self._uncredited = 0
        self._block: tuple[int, int, bytearray] | None = None

    @property
    def usable(self) -> bool:
        """Whether it can take another call."""
        return not self.lost and not self.leaving and self._next <= _LAST_NUMBER

    @property
    def idle(self) -> bool:
        return not self._streams and not self._waiting

    def open(
        self, path: str, metadata: Iterable[tuple[str, str]] = (), timeout: float | None = None
    ) -> Stream:
        """Start a call of ``/package.Service/Method``. `timeout` (seconds) is told to the peer and not enforced."""
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "longshore"),
            *metadata,
        ]
        if timeout is not None:
            headers.insert(5, ("grpc-timeout", _timeout(timeout)))
        stream = Stream(hpack.encode(headers))
        self._waiting.append(stream)
        self._start_waiting()
        return stream

    def send(self, stream: Stream, message: bytes, *, last: bool = False) -> None:
        """Queue a message; it leaves as far as the peer's windows allow. Nothing happens on a call that is over."""
        if stream.status is not None or stream.finishing:
            return
        head = _MESSAGE.pack(0, len(message))
        # A long one isn't copied once more to have its head before it.
        pieces = (head + message,) if len(message) < _DEFAULT_FRAME else (head, message)
        stream.unsent.extend(map(memoryview, pieces))
        stream.finishing = last
        self._flush(stream)

    def finish(self, stream: Stream) -> None:
        """No more messages will be sent."""
        if stream.status is None and not stream.finishing:
            stream.finishing = True
            self._flush(stream)

    def cancel(self, stream: Stream) -> None:
        """Give the call up, if it isn't over."""
        if stream.status is None:
            self._reset(stream, CANCELED, "cancelled", CANCEL)

    def pop(self, stream: Stream) -> bytes:
        """The next message, which must be there."""
        message = stream.messages.popleft()
        self._credit(stream)
        return message

    def take(self) -> bytes:
        """The bytes to write now; they are forgotten here."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def changed(self) -> list[Stream]:
        """The streams that something has happened to since this was asked last."""
        changed, self._touched = self._touched, []
        return changed

    def receive(self, data: bytes) -> None:
        """Take received bytes. What breaks the protocol loses the connection."""
        self._in += data
        at = 0
        try:
            while not self.lost and len(self._in) - at >= 9:
                length = int.from_bytes(self._in[at : at + 3], "big")
                if length > FRAME_LIMIT:
                    raise _Broken(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
                end = at + 9 + length
                if len(self._in) < end:
                    break
                number = _WORD.unpack_from(self._in, at + 5)[0] & _LAST_NUMBER
                self._handle(self._in[at + 3], self._in[at + 4], number, self._in[at + 9 : end])
                at = end
            if self._widened:
                self._flush_all()
        except _Broken as error:
            self._break(error.code, str(error))
        except hpack.Malformed as error:
            self._break(COMPRESSION_ERROR, str(error))
        except (StructError, IndexError):
            self._break(FRAME_SIZE_ERROR, "a frame that is too short")
        del self._in[:at]

    def lose(self, reason: str) -> None:
        """The connection is gone, and its streams end with it."""
        self.lost = self.lost or reason
        for stream in (*self._streams.values(), *self._waiting):
            self._end(stream, UNAVAILABLE, self.lost)

    def _break(self, code: int, reason: str) -> None:
        self._out.append(frame(GOAWAY, 0, 0, _WORD.pack(0) + _WORD.pack(code)))
        self.lose(f"the daemon broke the protocol: {reason}")

    def _handle(self, kind: int, flags: int, number: int, payload: bytearray) -> None:
        if self._block is not None and kind != CONTINUATION:
            raise _Broken(PROTOCOL_ERROR, "a frame inside a header block")
        if kind == DATA:
            self._data(flags, number, payload)
        elif kind == HEADERS:
            self._headers(flags, number, payload)
        elif kind == CONTINUATION:
            self._continuation(flags, number, payload)
        elif kind == WINDOW_UPDATE:
            self._more_window(number, _WORD.unpack(payload)[0] & _LAST_NUMBER)
        elif kind == SETTINGS:
            self._settings(flags, payload)
        elif kind == PING:
            if not flags & ACK:
                self._out.append(frame(PING, ACK, 0, bytes(payload)))
        elif kind == RST_STREAM:
            self._was_reset(number, _WORD.unpack(payload)[0])
        elif kind == GOAWAY:
            self._goes_away(payload)
        elif kind == PUSH_PROMISE:
            raise _Broken(PROTOCOL_ERROR, "a push, which our settings forbid")
        # Others must be ignored.

    def _data(self, flags: int, number: int, payload: bytearray) -> None:
        self._uncredited += len(payload)
        if self._uncredited >= CONNECTION_WINDOW // 2:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, _WORD.pack(self._uncredited)))
            self._uncredited = 0
        stream = self._known(number)
        if stream is None:
            return
        stream.uncredited += len(payload)
        if stream.uncredited > WINDOW:
            raise _Broken(FLOW_CONTROL_ERROR, "more than the window allows")
        stream.partial += _unpadded(flags, payload)
        self._unpack(stream)
        if stream.status is None:
            if flags & END_STREAM:
                self._trailers(stream, {})
            else:
                self._credit(stream)

    def _unpack(self, stream: Stream) -> None:
        """Split off the messages that are whole."""
        partial = stream.partial
        while len(partial) >= _MESSAGE.size:
            compressed, length = _MESSAGE.unpack_from(partial)
            if compressed or length > MESSAGE_LIMIT:
                words = (
                    "a compressed message, which nobody asked for"
                    if compressed
                    else f"received message larger than max ({length} vs. {MESSAGE_LIMIT})"
                )
                self._reset(stream, INTERNAL if compressed else RESOURCE_EXHAUSTED, words, CANCEL)
                return
            end = _MESSAGE.size + length
            if len(partial) < end:
                return
            with memoryview(partial) as view:
                stream.messages.append(bytes(view[_MESSAGE.size : end]))
            del partial[:end]
            self._touched.append(stream)

    def _credit(self, stream: Stream) -> None:
        """Let the peer send more, unless there are messages still to be popped."""
        if stream.status is None and not stream.messages and stream.uncredited >= WINDOW // 2:
            self._out.append(frame(WINDOW_UPDATE, 0, stream.number, _WORD.pack(stream.uncredited)))
            stream.uncredited = 0

    def _headers(self, flags: int, number: int, payload: bytearray) -> None:
        payload = _unpadded(flags, payload)
        if flags & PRIORITIZED:
            del payload[:5]
        self._block = (number, flags, payload)
        if flags & END_HEADERS:
            self._end_block()

    def _continuation(self, flags: int, number: int, payload: bytearray) -> None:
        if self._block is None or self._block[0] != number:
            raise _Broken(PROTOCOL_ERROR, "the rest of no header block")
        block = self._block[2]
        block += payload
        if len(block) > METADATA_LIMIT + FRAME_LIMIT:
            raise _Broken(ENHANCE_YOUR_CALM, f"a header block of more than {METADATA_LIMIT} bytes")
        if flags & END_HEADERS:
            self._end_block()

    def _end_block(self) -> None:
        assert self._block is not None
        number, flags, block = self._block
        self._block = None
        stream = self._known(number)
        if stream is None:
            return
        headers = dict(hpack.decode(bytes(block)))
        if flags & END_STREAM:
            self._trailers(stream, headers)
        elif not headers.get(":status", "").startswith("1"):
            stream.headers = headers
            self._touched.append(stream)

    def _trailers(self, stream: Stream, trailers: dict[str, str]) -> None:
        status, details = _outcome(
            trailers if "grpc-status" in trailers else {**(stream.headers or {}), **trailers}
        )
        if status == OK and stream.partial:
            status, details = INTERNAL, "a message that was cut short"
        if not stream.finished:
            self._out.append(frame(RST_STREAM, 0, stream.number, _WORD.pack(CANCEL)))
        if stream.headers is None:
            stream.headers = trailers
        self._end(stream, status, details)

    def _was_reset(self, number: int, code: int) -> None:
        stream = self._known(number)
        if stream is not None:
            self._end(stream, _BY_RESET.get(code, INTERNAL), f"the daemon reset the call: error {code}")

    def _goes_away(self, payload: bytearray) -> None:
        last = _WORD.unpack_from(payload)[0] & _LAST_NUMBER
        code = _WORD.unpack_from(payload, 4)[0]
        self.leaving = True
        words = payload[8:].decode("utf-8", "replace")
        reason = f"the daemon goes away: {words or f'error {code}'}"
        refused = [stream for number, stream in self._streams.items() if number > last]
        for stream in (*refused, *self._waiting):
            self._end(stream, UNAVAILABLE, reason)

    def _settings(self, flags: int, payload: bytearray) -> None:
        if flags & ACK:
            return
        self.greeted = True
        for name, value in _SETTING.iter_unpack(payload):
            if name == INITIAL_WINDOW_SIZE:
                self._set_window(value)
            elif name == MAX_FRAME_SIZE:
                self._frame_limit = min(max(value, _DEFAULT_FRAME), FRAME_LIMIT)
            elif name == MAX_CONCURRENT_STREAMS:
                self._limit = value
        self._out.append(frame(SETTINGS, ACK, 0, b""))
        self._start_waiting()
        self._flush_all()

    def _set_window(self, value: int) -> None:
        if value > _MAX_WINDOW:
            raise _Broken(FLOW_CONTROL_ERROR, "a window that is too large")
        # For what was sent already, too: a window may become negative.
        for stream in self._streams.values():
            stream.window += value - self._initial_window
        self._initial_window = value

    def _more_window(self, number: int, amount: int) -> None:
        """What it makes room for leaves when all that came with it is read: in frames as long as may be."""
        self._widened = True
        if number == 0:
            self._window += amount
        elif stream := self._known(number):
            stream.window += amount

    def _known(self, number: int) -> Stream | None:
        """The stream, None if it is over. Frames may have been under way to it."""
        if number == 0 or number >= self._next or not number & 1:
            raise _Broken(PROTOCOL_ERROR, f"a frame for stream {number}")
        return self._streams.get(number)

    def _start_waiting(self) -> None:
        while self._waiting and len(self._streams) < self._limit and self.usable:
            stream = self._waiting.popleft()
            stream.number = self._next
            self._next += 2
            stream.window = self._initial_window
            self._streams[stream.number] = stream
            self._write_headers(stream)
            self._flush(stream)

    def _write_headers(self, stream: Stream) -> None:
        block = stream.opening
        kind = HEADERS
        while len(block) > _DEFAULT_FRAME:
            self._out.append(frame(kind, 0, stream.number, block[:_DEFAULT_FRAME]))
            block = block[_DEFAULT_FRAME:]
            kind = CONTINUATION
        self._out.append(frame(kind, END_HEADERS, stream.number, block))

    def _flush_all(self) -> None:
        self._widened = False
        for stream in self._streams.values():
            self._flush(stream)

    def _flush(self, stream: Stream) -> None:
        if not stream.number or stream.finished:
            return
        sent = bool(stream.unsent)
        while stream.unsent:
            room = min(self._window, stream.window, self._frame_limit)
            if room <= 0:
                return
            piece = stream.unsent.popleft()
            if len(piece) > room:
                stream.unsent.appendleft(piece[room:])
                piece = piece[:room]
            self._window -= len(piece)
            stream.window -= len(piece)
            stream.finished = stream.finishing and not stream.unsent
            # Not by `frame`: a long message isn't copied but once, by `take`.
            flags = END_STREAM if stream.finished else 0
            self._out.append(len(piece).to_bytes(3, "big") + bytes((DATA, flags)) + _WORD.pack(stream.number))
            self._out.append(piece)
        if stream.finishing and not stream.finished:
            stream.finished = True
            self._out.append(frame(DATA, END_STREAM, stream.number, b""))
        if sent:  # whoever waits for room may go on
            self._touched.append(stream)

    def _reset(self, stream: Stream, status: int, details: str, code: int) -> None:
        if stream.number:
            self._out.append(frame(RST_STREAM, 0, stream.number, _WORD.pack(code)))
        self._end(stream, status, details)

    def _end(self, stream: Stream, status: int, details: str) -> None:
        stream.status = status
        stream.details = details
        stream.unsent.clear()
        stream.partial.clear()
        self._touched.append(stream)
        if self._streams.pop(stream.number, None) is None and stream in self._waiting:
            self._waiting.remove(stream)
        self._start_waiting()


def _unpadded(flags: int, payload: bytearray) -> bytearray:
    if not flags & PADDED:
        return payload
    if payload[0] >= len(payload):
        raise _Broken(PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def _timeout(seconds: float) -> str:
    """At most eight digits and a unit; never nothing, which would be no timeout at all for some."""
    milliseconds = max(1, round(seconds * 1000))
    return f"{milliseconds}m" if milliseconds < 10**8 else f"{min(milliseconds // 1000, 10**8 - 1)}S"


def _outcome(trailers: dict[str, str]) -> tuple[int, str]:
    status = trailers.get("grpc-status", "")
    if status.isascii() and status.isdecimal():
        return int(status), _unescaped(trailers.get("grpc-message", ""))
    http = trailers.get(":status", "")
    if http and http != "200":
        return _BY_HTTP.get(http, UNKNOWN), f"the answer has HTTP status {http}"
    return UNKNOWN, "the answer has no status"


def _unescaped(text: str) -> str:
    """Undo percent-encoding; what is none stays."""
    first, *rest = text.encode().split(b"%")
    if not rest:
        return text
    data = bytearray(first)
    for part in rest:
        try:
            data += bytes.fromhex(part[:2].decode()) + part[2:]
        except ValueError:
            data += b"%" + part
    return data.decode("utf-8", "replace")
