"""The Engine API over HTTP: requests, streams, and connections that stop being HTTP.

One connection per request: a command makes a handful.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    import ssl

    from longshore.docker.tls import TLSStream

LATEST = (1, 48)
OLDEST = (1, 24)
DEFAULT_HOST = "unix:///var/run/docker.sock"

Body = bytes | Iterable[bytes] | IO[bytes] | None


class Failure(Exception):
    """Said on stderr; the command ends with `status`."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class APIError(Failure):
    """What the daemon refused. `code` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"Error response from daemon: {message}")
        self.code = code
        self.message = message


class NotConnected(Failure):
    """The daemon isn't there."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, client: Client) -> None:
        super().__init__(client.http_host)
        self._client = client

    def connect(self) -> None:
        self.sock = self._client.open_socket()


class Client:
    """`host` as -H takes it; `tls` a context for tcp hosts. The version is the daemon's, or DOCKER_API_VERSION."""

    def __init__(self, host: str, tls: ssl.SSLContext | None = None) -> None:
        self.host = host
        self._tls = tls
        scheme, separator, self._address = host.partition("://")
        if not separator:
            raise Failure(f"unable to parse docker host `{host}`")
        if scheme not in ("unix", "tcp", "http", "https"):
            raise Failure(f'unsupported protocol scheme "{scheme}"')
        self._scheme = scheme
        self.http_host = "docker" if scheme == "unix" else self._address.partition("/")[0]
        self._version = os.environ.get("DOCKER_API_VERSION", "").lstrip("v")

    # -- connections

    def open_socket(self) -> socket.socket:
        """Raises NotConnected in the original's words."""
        try:
            if self._scheme == "unix":
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.connect(self._address)
                return sock
            name, _, port = self.http_host.rpartition(":")
            sock = socket.create_connection((name.strip("[]"), int(port)))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._tls.wrap_socket(sock, server_hostname=name) if self._tls else sock
        except PermissionError:
            raise NotConnected(
                "permission denied while trying to connect to the docker API at " + self.host
            ) from None
        except (OSError, ValueError) as error:
            if self._tls and not isinstance(error, ConnectionError):
                raise NotConnected(f"error during connect: {error}") from None
            raise NotConnected(
                f"Cannot connect to the Docker daemon at {self.host}. Is the docker daemon running?"
            ) from None

    def _open_stream(self) -> socket.socket | TLSStream:
        """For a hijacked connection, whose directions end separately."""
        if self._tls is None:
            return self.open_socket()
        from longshore.docker.tls import TLSStream

        tls, self._tls = self._tls, None
        try:
            below = self.open_socket()
        finally:
            self._tls = tls
        return TLSStream(below, tls, self.http_host.rpartition(":")[0].strip("[]"))

    @property
    def version(self) -> tuple[int, int]:
        """What both sides speak; asks the daemon once."""
        if not self._version:
            connection = _Connection(self)
            try:
                connection.request("HEAD", "/_ping")
                said = connection.getresponse().getheader("Api-Version") or "1.24"
            finally:
                connection.close()
            self._version = said if _parse(said) < LATEST else "{}.{}".format(*LATEST)
        return _parse(self._version)

    # -- requests

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """The answer, its body unread. Raises APIError from status 400 on."""
        major, minor = self.version
        connection = _Connection(self)
        chunked = body is not None and not isinstance(body, bytes)
        sent = {"Host": self.http_host, **(headers or {})}
        if chunked:
            sent["Transfer-Encoding"] = "chunked"
        try:
            connection.request(
                method,
                f"/v{major}.{minor}{_path(path)}{_query(query)}",
                body,
                sent,
                encode_chunked=chunked,
            )
            answer = connection.getresponse()
        except (BrokenPipeError, ConnectionResetError):
            # The daemon may have answered before it had read all.
            answer = connection.response_class(connection.sock, method=method)
            answer.begin()
        if answer.status >= 400:
            raise APIError(answer.status, _message(answer))
        return answer

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        document: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """JSON in, JSON out; None for an empty answer."""
        body, sent = None, dict(headers or {})
        if document is not None:
            body = json.dumps(document).encode()
            sent["Content-Type"] = "application/json"
        with self.send(method, path, query, body, sent) as answer:
            data = answer.read()
        if not data or "json" not in (answer.getheader("Content-Type") or "json"):
            return data or None
        return json.loads(data)

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self.call("GET", path, query)

    def post(self, path: str, query: Mapping[str, Any] | None = None, document: Any = None) -> Any:
        return self.call("POST", path, query, document)

    def delete(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self.call("DELETE", path, query)

    def lines(self, answer: http.client.HTTPResponse) -> Iterator[Any]:
        """The JSON documents of a stream, as they come."""
        decoder = json.JSONDecoder()
        pending = ""
        with answer:
            while data := answer.read1(65536):
                pending += data.decode("utf-8", "replace")
                while pending := pending.lstrip():
                    try:
                        document, end = decoder.raw_decode(pending)
                    except ValueError:
                        break  # the rest of it is on its way
                    pending = pending[end:]
                    yield document

    def hijack(
        self,
        path: str,
        query: Mapping[str, Any] | None = None,
        document: Any = None,
    ) -> Hijacked:
        """POST, and take the connection over. Raises APIError."""
        major, minor = self.version
        body = b"" if document is None else json.dumps(document).encode()
        head = (
            f"POST /v{major}.{minor}{_path(path)}{_query(query)} HTTP/1.1\r\nHost: {self.http_host}\r\n"
            f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        sock = self._open_stream()
        sock.sendall(head.encode() + body)
        received = b""
        while b"\r\n\r\n" not in received:
            data = sock.recv(4096)
            if not data:
                raise Failure("the daemon hung up")
            received += data
        header, _, rest = received.partition(b"\r\n\r\n")
        status = int(header.split(b" ", 2)[1])
        if status >= 400:
            raise APIError(status, _refusal(sock, header, rest))
        return Hijacked(sock, rest)


class Hijacked:
    """A connection that is bytes both ways."""

    def __init__(self, sock: socket.socket | TLSStream, early: bytes) -> None:
        self._socket = sock
        self._early = early

    def read(self) -> bytes:
        """b"" at the end."""
        if self._early:
            early, self._early = self._early, b""
            return early
        try:
            return self._socket.recv(65536)
        except ConnectionResetError:
            return b""

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close_write(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def end(self) -> None:
        """Both directions, also for a thread that reads."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        self._socket.close()


def _parse(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor or 0)


def _path(path: str) -> str:
    return quote(path, safe="/:@!$&'()*+,;=~.-_")


def _query(query: Mapping[str, Any] | None) -> str:
    if not query:
        return ""
    pairs: list[tuple[str, str]] = []
    for name, value in query.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is None or one is False:
                continue
            text = "1" if one is True else json.dumps(one) if isinstance(one, dict) else str(one)
            pairs.append((name, text))
    return "?" + urlencode(pairs) if pairs else ""


def _message(answer: http.client.HTTPResponse) -> str:
    return _worded(answer.read())


def _worded(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode("utf-8", "replace").strip()


def _refusal(sock: socket.socket | TLSStream, header: bytes, rest: bytes) -> str:
    lines = header.decode("latin-1").split("\r\n")[1:]
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if "content-length" in fields:
        while len(rest) < int(fields["content-length"]):
            rest += sock.recv(65536)
    return _worded(rest)
