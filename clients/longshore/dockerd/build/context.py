"""A build's sources: the archive that the client sends, or what a URL gives."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from longshore.api.errors import InvalidArgument, Unimplemented
from longshore.dockerd.errors import ServerError
from longshore.zygote.client import WorkerDied, WorkerError

if TYPE_CHECKING:
    import aiohttp

    from longshore.zygote.client import Zygote

WORKER: Final = "longshore.dockerd.build.worker"
_URL: Final = re.compile(r"https?://", re.IGNORECASE)
_GIT: Final = re.compile(r"git://|git@|github\.com/|https?://.*\.git(?:#.*)?$", re.IGNORECASE)
_BLOCK: Final = 1 << 18
_SECONDS: Final = 60.0  # without a byte from a server
_MAX_DOCKERFILE: Final = 16 << 20


class Fetched(NamedTuple):
    """`kind` is the content type without parameters; `mtime` in seconds, 0 if the server doesn't say."""

    kind: str
    name: str
    mtime: float


def is_url(text: str) -> bool:
    return _URL.match(text) is not None


def check_remote(remote: str) -> None:
    """Raises for what can't be a context here."""
    if remote == "client-session":
        raise InvalidArgument(
            "experimental session with v1 builder is no longer supported,"
            " use builder version v2 (BuildKit) instead"
        )
    if _GIT.match(remote):
        raise Unimplemented(
            f"a git repository can't be a build context here: {remote}."
            " Clone it and build the folder, or name the URL of a tar archive"
        )
    if not is_url(remote):
        raise ServerError(f"remoteURL ({remote}) could not be recognized as URL")


async def refusing(zygote: Zygote, function: str, arguments: object, fds: tuple[int, ...] = ()) -> object:
    """A worker's answer; what it refuses, and a damaged archive, is an error for the client."""
    try:
        return await zygote.call(f"{WORKER}:{function}", arguments, fds)
    except WorkerError as error:
        raise ServerError(error.message) from None
    except WorkerDied as error:
        raise ServerError(f"the build's worker ended without an answer: {error}") from None


async def unpack(zygote: Zygote, blocks: AsyncIterator[bytes], root: str) -> None:
    """The archive into the empty folder `root`. Raises ServerError for a damaged one."""
    reading, writing = os.pipe()
    worker = asyncio.ensure_future(refusing(zygote, "unpack", {"root": root}, (reading,)))
    try:
        # Until it has its own.
        feeding = asyncio.ensure_future(_feed(blocks, writing))
        feeding.add_done_callback(lambda _: os.close(writing))
        try:
            await asyncio.wait((worker, feeding), return_when=asyncio.FIRST_COMPLETED)
            if worker.done() and worker.exception() is not None:
                worker.result()
            await feeding
            await worker
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        os.close(reading)


async def _feed(blocks: AsyncIterator[bytes], writing: int) -> None:
    os.set_blocking(writing, False)
    with suppress(BrokenPipeError):  # the worker says why
        async for block in blocks:
            view = memoryview(block)
            while view:
                try:
                    view = view[os.write(writing, view) :]
                except BlockingIOError:
                    await _writable(writing)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_writer(fd)


async def fetch_context(zygote: Zygote, url: str, root: str) -> str | None:
    """A remote context into `root`; the text of a Dockerfile if that is all there is."""
    import aiohttp

    try:
        async with _session() as session, session.get(url) as response:
            _check(url, response.status, response.reason or "")
            if response.content_type == "text/plain":
                data = await response.content.read(_MAX_DOCKERFILE)
                return bytes(data).decode(errors="replace")
            await unpack(zygote, response.content.iter_chunked(_BLOCK), root)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ServerError(f"error downloading remote context {url}: {error}") from None
    return None


async def fetch_file(url: str, folder: str) -> Fetched:
    """ADD of a URL: into the file `folder`/"data"."""
    import aiohttp

    try:
        async with _session() as session, session.get(url) as response:
            _check(url, response.status, response.reason or "")
            with open(os.path.join(folder, "data"), "xb") as file:  # noqa: ASYNC230
                async for block in response.content.iter_chunked(_BLOCK):
                    await asyncio.to_thread(file.write, block)
            headers = response.headers
            name = _name(urlsplit(url).path, headers.get("Content-Disposition", ""))
            return Fetched(response.content_type, name, _seconds(headers.get("Last-Modified", "")))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ServerError(f"ADD failed: failed to GET {url}: {error}") from None


def _session() -> aiohttp.ClientSession:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SECONDS, sock_read=_SECONDS)
    return aiohttp.ClientSession(trust_env=True, timeout=timeout)


def _check(url: str, status: int, reason: str) -> None:
    if status >= 400:
        raise ServerError(f"failed to GET {url} with status {status} {reason}")


def _name(path: str, disposition: str) -> str:
    """What a download is called; "" where nobody says."""
    name = unquote(path).rpartition("/")[2]
    if not name and disposition:
        header = Message()
        header["Content-Disposition"] = disposition
        name = (header.get_filename() or "").rpartition("/")[2]
    return "" if name in (".", "..") or "\0" in name else name


def _seconds(last_modified: str) -> float:
    try:
        return parsedate_to_datetime(last_modified).timestamp() if last_modified else 0.0
    except ValueError:
        return 0.0
