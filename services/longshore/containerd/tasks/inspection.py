"""What a runtime can do, for Introspection.PluginInfo: its shim is run with ``-info`` and answers."""

from __future__ import annotations

import asyncio

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from longshore.api import typeurls
from longshore.api.errors import DeadlineExceeded, Error, InvalidArgument, Unavailable
from longshore.api.types.introspection_pb2 import RuntimeInfo, RuntimeRequest
from longshore.containerd.tasks.runtimes import DEFAULT, Runtimes, builtin_program

TIMEOUT = 10  # seconds


async def inspect(runtimes: Runtimes, options: Any | None) -> Any:
    """Answer a RuntimeRequest (none: the default runtime) with a RuntimeInfo.

    Raises InvalidArgument, NotFound (no such runtime), DeadlineExceeded, Unavailable, Error (a shim
    older than the question).
    """
    request = _request(options)
    runtime = runtimes.resolve(request.runtime_path or DEFAULT)
    given = request.options.SerializeToString() if request.HasField("options") else b""
    answer = await _ask(runtime.program or builtin_program(), given)
    try:
        return typeurls.pack(RuntimeInfo.FromString(answer))
    except DecodeError:
        raise Error(f"runtime {runtime.name} answered -info with something else") from None


def _request(options: Any | None) -> RuntimeRequest:
    if options is None:
        return RuntimeRequest()
    try:
        if typeurls.type_name(options) == RuntimeRequest.DESCRIPTOR.full_name:
            return RuntimeRequest.FromString(options.value)
    except DecodeError:
        pass
    raise InvalidArgument(f"options of type {options.type_url!r} are no RuntimeRequest: invalid argument")


async def _ask(program: str, given: bytes) -> bytes:
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "-info",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise Unavailable(f"{program}: {error.strerror}: unavailable") from None
    try:
        output, complaint = await asyncio.wait_for(process.communicate(given), TIMEOUT)
    except BaseException as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise DeadlineExceeded(f"{program} -info: no answer in {TIMEOUT} s: deadline exceeded") from None
        raise
    if process.returncode:
        raise Error(f"{program} -info: {complaint.decode(errors='replace').strip()}")
    return output
