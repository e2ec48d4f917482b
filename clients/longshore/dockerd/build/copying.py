"""COPY and ADD."""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, cast

from longshore.dockerd.build import configs, context
from longshore.dockerd.build.instructions import Copy
from longshore.dockerd.build.stages import Stage
from longshore.dockerd.build.work import Rows
from longshore.dockerd.engine import ImageInfo
from longshore.dockerd.errors import ServerError

_UNNAMED = "__unnamed__"


class Source(NamedTuple):
    """`root` "" is the image that `--from` names."""

    root: str
    path: str
    name: str
    hash: str
    extract: bool


async def copy(stage: Stage, step: Copy) -> None:
    """One layer with what is copied."""
    expander = stage.expander
    step = step._replace(
        sources=tuple(expander.word(source) for source in step.sources),
        target=expander.word(step.target),
        owner=expander.word(step.owner),
        mode=expander.word(step.mode),
    )
    async with AsyncExitStack() as stack:
        image = await _image(stage, step.stage) if step.stage else None
        mounts = await stack.enter_async_context(stage.work.view(image)) if image else []
        sources = await _sources(stage, step, mounts)
        done = configs.commented(stage.config, _remark(step, sources), apart=False)
        if await stage.hit(done):
            return
        key, target = await stack.enter_async_context(stage.work.snapshot(stage.image))
        await _perform(stage, step, sources, mounts, target)
        await stage.make(done, key)


async def _image(stage: Stage, name: str) -> ImageInfo:
    try:
        other = stage.finished.get(name)
    except ServerError as error:
        raise ServerError(f"invalid from flag value {name}: {error}") from None
    if other is None:
        return await stage.work.image(name)
    if other.image is None:
        raise ServerError(f"invalid from flag value {name}: stage has no image")
    return other.image


def _remark(step: Copy, sources: list[Source]) -> str:
    """For history and cache."""
    hashes = [source.hash for source in sources]
    all_of_them = hashlib.sha256(",".join(hashes).encode()).hexdigest()
    whole = hashes[0] if len(hashes) == 1 else f"multi:{all_of_them}"
    flags = f"--chown={step.owner} " if step.owner else ""
    flags += f"--chmod={step.mode} " if step.mode else ""
    return f"{step.name} {flags}{whole} in {step.target} "


async def _sources(stage: Stage, step: Copy, mounts: Rows) -> list[Source]:
    found: list[Source] = []
    try:
        for word in step.sources:
            if context.is_url(word):
                if step.name == "COPY":
                    raise ServerError("source can't be a URL for COPY")
                found.append(await _downloaded(stage, word, step.target))
            else:
                found += await _scanned(stage, step, word, mounts)
    except ServerError as error:
        raise ServerError(f"{step.name} failed: {error}") from None
    if len(found) > 1 and not step.target.endswith("/"):
        raise ServerError(
            f"When using {step.name} with more than one source file,"
            " the destination must be a directory and end with a /"
        )
    return found


async def _scanned(stage: Stage, step: Copy, word: str, mounts: Rows) -> list[Source]:
    work = stage.work
    if not step.stage and not work.context:
        raise ServerError("missing build context")
    arguments = {
        "root": "" if step.stage else work.context,
        "mounts": mounts,
        "scratch": await asyncio.to_thread(work.new_folder, "source"),
        "sources": [word],
        "image": bool(step.stage),
    }
    found = cast(list[list[str]], await context.refusing(work.zygote, "scan", arguments))
    root = "" if step.stage else work.context
    extract = step.name == "ADD"
    return [Source(root, path, _base(path), digest, extract) for path, digest in found]


def _base(path: str) -> str:
    return posixpath.basename(path.rstrip("/"))


async def _downloaded(stage: Stage, url: str, target: str) -> Source:
    work = stage.work
    folder = await asyncio.to_thread(work.new_folder, "download")
    fetched = await context.fetch_file(url, folder)
    if not fetched.name and target.endswith("/"):
        raise ServerError(f"cannot determine filename for source {url}")
    await work.output.line({"status": "Downloading", "progressDetail": {}, "id": ""})
    await work.output.say("\n")
    path = os.path.join(folder, "data")
    await asyncio.to_thread(_settle, path, fetched.mtime)
    arguments = {"root": folder, "mounts": [], "scratch": "", "sources": ["data"], "image": False}
    ((_, digest),) = cast(list[list[str]], await context.refusing(work.zygote, "scan", arguments))
    return Source(folder, "data", fetched.name or _UNNAMED, digest, False)


def _settle(path: str, mtime: float) -> None:
    os.chmod(path, 0o600)
    os.utime(path, (mtime, mtime))


async def _perform(stage: Stage, step: Copy, sources: list[Source], mounts: Rows, target: Rows) -> None:
    """One worker for each root, in the order of the sources."""
    work = stage.work
    scratch = await asyncio.to_thread(work.new_folder, "target")
    other = await asyncio.to_thread(work.new_folder, "source")
    place = _place(stage.config.working_dir, step.target)
    groups: list[tuple[tuple[str, bool], list[Source]]] = []
    for source in sources:
        kind = (source.root, source.extract)
        if not groups or groups[-1][0] != kind:
            groups.append((kind, []))
        groups[-1][1].append(source)
    for (root, extract), group in groups:
        arguments: dict[str, Any] = {
            "target": target,
            "scratch": scratch,
            "root": root,
            "mounts": [] if root else mounts,
            "other": other,
            "paths": [source.path for source in group],
            "names": [source.name for source in group],
            "place": place,
            "chown": step.owner,
            "chmod": step.mode,
            "keep_owner": bool(step.stage) and not step.owner,
            "extract": extract,
        }
        await context.refusing(work.zygote, "copy", arguments)


def _place(folder: str, target: str) -> str:
    """Absolute; a slash at the end stays."""
    if target.startswith("/"):
        return target
    whole = posixpath.normpath(posixpath.join("/", folder, target))
    return f"{whole}/" if target.endswith("/") and whole != "/" else whole
