"""`docker search`: what is asked of an index, and what becomes of its answer."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from longshore.api.errors import InvalidArgument
from longshore.dockerd.errors import ServerError
from longshore.dockerd.images.registries import Auth
from longshore.dockerd.images.searching import Found, search

RESULTS = [
    {"name": "a/one", "description": "d", "star_count": 5, "is_official": True, "is_trusted": False},
    {"name": "two", "star_count": 1, "is_automated": True},
    {"name": "three", "star_count": 9},
]


class Index(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[tuple[str, str]]]
    answer: ClassVar[bytes]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization", "")))
        self.send_response(200 if self.answer else 503)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def index() -> Iterator[str]:
    """Its address: on loopback, so plain HTTP will do."""
    Index.asked, Index.answer = [], json.dumps({"results": RESULTS}).encode()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


async def found(
    term: str, limit: str = "", filters: Mapping[str, Sequence[str]] | None = None, **auth: Any
) -> list[Found]:
    config = cast(Any, SimpleNamespace(insecure_registries=[]))
    return await search(config, term, limit, filters or {}, Auth(**auth))


async def test_the_question_and_the_answer(index: str) -> None:
    assert await found(f"{index}/my/foo") == [
        Found(name="a/one", description="d", star_count=5, is_official=True),
        Found(name="two", star_count=1, is_automated=True),
        Found(name="three", star_count=9),
    ]
    await found(f"{index}/x", "3", username="me", password="secret")
    login = "Basic " + base64.b64encode(b"me:secret").decode()
    assert Index.asked == [("/v1/search?q=my%2Ffoo&n=25", ""), ("/v1/search?q=x&n=3", login)]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"stars": ["4"]}, ["a/one", "three"]),
        ({"is-official": ["true"]}, ["a/one"]),
        ({"is-automated": ["false"], "stars": ["6"]}, ["three"]),
    ],
)
async def test_filters(index: str, filters: dict[str, list[str]], names: list[str]) -> None:
    assert [each.name for each in await found(f"{index}/x", filters=filters)] == names


@pytest.mark.parametrize(
    ("term", "limit", "filters", "words"),
    [
        ("x", "101", {}, r"Limit 101 is outside the range of \[1, 100\]"),
        ("x", "abc", {}, 'strconv.Atoi: parsing "abc": invalid syntax'),
        ("x", "", {"stars": ["x"]}, "Invalid filter 'stars=x'"),
        ("x", "", {"is-official": ["maybe"]}, r"Invalid filter 'is-official=\[maybe\]'"),
        ("http://x/y", "", {}, "Invalid repository name"),
    ],
)
async def test_what_is_refused(term: str, limit: str, filters: dict[str, list[str]], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        await found(term, limit, filters)


async def test_an_index_that_fails(index: str) -> None:
    Index.answer = b""
    with pytest.raises(ServerError, match="Unexpected status code 503"):
        await found(f"{index}/x")
    Index.answer = b"{"
    with pytest.raises(ServerError, match="error unmarshalling"):
        await found(f"{index}/x")
    with pytest.raises(ServerError, match='Get "https://127'):
        await found("127.0.0.1:1/x")
