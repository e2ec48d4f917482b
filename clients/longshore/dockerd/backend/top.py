"""`docker top`: the host's ps, and of its lines those of the container's processes."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Collection
from typing import Any, Final

from longshore.api.errors import InvalidArgument
from longshore.dockerd.backend.live import Live
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.errors import Conflict, ServerError

# A title of the client's own could pass another column off as PID.
_RENAMED: Final = re.compile(r"(\s+)([^\s]*)=\s*(PID[^\s]*)")
_SECONDS: Final = 30.0


async def top(parts: Parts, live: Live, arguments: str = "") -> dict[str, Any]:
    """Titles and Processes. Raises Conflict unless it runs, InvalidArgument, ServerError (with ps's words)."""
    words = arguments or "-ef"
    if match := _RENAMED.search(" " + words):
        raise InvalidArgument(f'specifying "{match[2]}={match[3]}" is not allowed')
    status = live.record.state.status
    if status == "restarting":
        raise Conflict(f"Container {live.id} is restarting, wait until the container is running")
    if not live.has_process:
        raise Conflict(f"Container {live.id} is not running")
    task = await parts.client.tasks.get(live.id)
    pids = {entry.pid for entry in await task.pids()}
    return parse(await _ps(words, pids), pids)


async def _ps(words: str, pids: Collection[int]) -> str:
    """Of these processes only where this ps can: some combinations of its options can't."""
    chosen = ["-q", ",".join(map(str, sorted(pids)))]
    try:
        split = shlex.split(words)
    except ValueError as error:
        raise InvalidArgument(f"ps: {error}") from error
    status, output, complaint = await _run([*split, *chosen])
    if status != 0:
        status, output, complaint = await _run(split)
    if status != 0:
        first = next(iter(complaint.strip().splitlines()), f"exit status {status}")
        raise ServerError(f"ps: {first}")
    return output


async def _run(words: list[str]) -> tuple[int, str, str]:
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            "ps", *words, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
    except FileNotFoundError as error:
        raise ServerError("ps: executable file not found in $PATH") from error
    try:
        async with asyncio.timeout(_SECONDS):
            output, complaint = await process.communicate()
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise ServerError("ps: it doesn't end") from error
    return process.returncode or 0, output.decode("utf-8", "replace"), complaint.decode("utf-8", "replace")


def parse(output: str, pids: Collection[int]) -> dict[str, Any]:
    """The last column is the rest of a line. Raises ServerError where there is no column PID."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise ServerError("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows = [line.split(None, len(titles) - 1) for line in lines[1:]]
    mine = [row for row in rows if len(row) > column and row[column].isdecimal() and int(row[column]) in pids]
    return {"Titles": titles, "Processes": mine}
