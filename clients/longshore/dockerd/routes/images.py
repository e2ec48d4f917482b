"""/images: list, inspect, history, tag, remove, pull, push, import, load, save, prune."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import IO, Any, cast

import msgspec

from longshore.api.errors import InvalidArgument
from longshore.client import oci
from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Answer, Call, Route, short_body
from longshore.dockerd.images import listing, names, platforms, registries
from longshore.dockerd.images.bodies import BodyFile, download
from longshore.dockerd.images.importing import Wish

_AUTH_LIMIT = 1 << 16  # bytes
_BUFFER = 1 << 20  # bytes read at once of an archive


async def list_images(engine: Engine, call: Call) -> Answer:
    """GET /images/json."""
    filters = call.filters(listing.LIST_FILTERS)
    if "filter" in call.query:  # what `docker images NAME` sent before filters knew references
        filters.setdefault("reference", []).append(call.query["filter"])
    shared = call.flag("shared-size") and call.version >= (1, 42)
    every = call.flag("all")
    return Answer(body=await engine.images.summaries(filters, call.version, every=every, shared=shared))


async def inspect(engine: Engine, call: Call) -> Answer:
    """GET /images/{name}/json."""
    return Answer(body=await engine.images.inspect(call.path["name"], call.version))


async def history(engine: Engine, call: Call) -> Answer:
    """GET /images/{name}/history."""
    await platforms.check(engine.images, call.path["name"], platforms.decode(call.query.get("platform", "")))
    return Answer(body=await engine.images.history(call.path["name"]))


async def tag(engine: Engine, call: Call) -> Answer:
    """POST /images/{name}/tag."""
    target = names.new_tag(call.query.get("repo", ""), call.query.get("tag", ""))
    await engine.images.tag(call.path["name"], target)
    return Answer(201)


async def remove(engine: Engine, call: Call) -> Answer:
    """DELETE /images/{name}."""
    done = await engine.images.remove(
        call.path["name"],
        engine.containers.all(),
        force=call.flag("force"),
        prune=not call.flag("noprune"),
    )
    return Answer(body=done)


async def _streamed(call: Call, lines: AsyncIterator[dict[str, Any]]) -> None:
    """The answer begins with the first line: what fails before it has a status of its own."""
    stream = None
    async with aclosing(cast(AsyncGenerator[dict[str, Any], None], lines)) as said:
        async for line in said:
            stream = stream or await call.stream()
            await stream.line(line)
    if stream is None:
        await call.stream()


async def create(engine: Engine, call: Call) -> None:
    """POST /images/create: pull, or import."""
    if call.query.get("fromSrc"):
        return await _import(engine, call)
    source, tag = call.query.get("fromImage", ""), call.query.get("tag", "")
    auth = registries.decode(call.headers.get("x-registry-auth", ""))
    every = not tag and not names.has_tag(source)
    reference = names.with_tag(source, tag)
    await _streamed(call, engine.images.pull(reference, auth, _platform(call), every=every))


async def _import(engine: Engine, call: Call) -> None:
    source, repository = call.query["fromSrc"], call.query.get("repo", "")
    name = names.new_tag(repository, call.query.get("tag", "")) if repository else None
    wish = Wish(name, call.query.get("message", ""), call.values("changes"), _platform(call))
    wish = wish._replace(message=wish.message or f"Imported from {source}")
    if source == "-":
        return await _streamed(call, engine.images.import_tar(call.body(), wish))
    async with download(source) as archive:
        await _streamed(call, engine.images.import_tar(archive, wish))


def _platform(call: Call) -> oci.Platform | None:
    return platforms.parse(call.query.get("platform", ""))


async def _auth_of_body(call: Call) -> registries.Auth:
    data = await short_body(call, _AUTH_LIMIT)
    try:
        return msgspec.json.decode(data, type=registries.Auth | None) or registries.Auth()
    except msgspec.DecodeError as error:
        words = str(error) if data.strip() else "EOF"
        raise InvalidArgument(f"Bad parameters and missing X-Registry-Auth: {words}") from None


async def push(engine: Engine, call: Call) -> None:
    """POST /images/{name}/push. Who pushes is told by a header or, as it once was, by the body."""
    header = call.headers.get("x-registry-auth", "")
    auth = registries.decode(header) if header else await _auth_of_body(call)
    repository = names.with_tag(call.path["name"], call.query.get("tag", ""))
    tag = repository.tag if names.has_tag(call.path["name"]) else call.query.get("tag", "")
    await platforms.check(engine.images, str(repository), platforms.decode(call.query.get("platform", "")))
    await _streamed(call, engine.images.push(repository, tag, auth))


async def save(engine: Engine, call: Call) -> None:
    """GET /images/get and /images/{name}/get."""
    asked = [call.path["name"]] if "name" in call.path else call.values("names")
    wanted = platforms.decode(call.query.get("platform", ""))
    for name in asked:
        await platforms.check(engine.images, name, wanted)
    chosen = await engine.images.choose(asked)
    stream = await call.stream("application/x-tar")
    async with aclosing(cast(AsyncGenerator[bytes, None], engine.images.save(chosen))) as archive:
        async for block in archive:
            await stream.write(block)


async def prune(engine: Engine, call: Call) -> Answer:
    """POST /images/prune."""
    filters = call.filters(listing.PRUNE_FILTERS)
    return Answer(body=await engine.images.prune(filters, engine.containers.all()))


async def search(engine: Engine, call: Call) -> Answer:
    """GET /images/search."""
    from longshore.dockerd.images import searching

    filters = call.filters(searching.FILTERS)
    auth = registries.decode(call.headers.get("x-registry-auth", ""))
    query = call.query
    found = await searching.search(
        engine.config, query.get("term", ""), query.get("limit", ""), filters, auth
    )
    return Answer(body=found)


async def load(engine: Engine, call: Call) -> None:
    """POST /images/load."""
    archive = cast(IO[bytes], io.BufferedReader(BodyFile(call.body()), _BUFFER))
    wanted = platforms.decode(call.query.get("platform", ""))
    lines = engine.images.load(archive, quiet=call.flag("quiet", True), platform=wanted)
    await _streamed(call, lines)


ROUTES = (
    Route("GET", "/images/json", list_images),
    Route("POST", "/images/create", create),
    Route("POST", "/images/load", load),
    Route("POST", "/images/prune", prune, since=(1, 25)),
    Route("GET", "/images/search", search),
    Route("GET", "/images/get", save),
    Route("GET", "/images/{name}/get", save),
    Route("GET", "/images/{name}/json", inspect),
    Route("GET", "/images/{name}/history", history),
    Route("POST", "/images/{name}/tag", tag),
    Route("POST", "/images/{name}/push", push),
    Route("DELETE", "/images/{name}", remove),
)
