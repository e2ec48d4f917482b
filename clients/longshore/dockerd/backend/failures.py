"""A start that failed: what the client is told, and the exit code that the container gets."""

from __future__ import annotations

from typing import Final, NamedTuple

from longshore.api.errors import Error, InvalidArgument
from longshore.dockerd.errors import ServerError

NOT_STARTED: Final = 128
"""A failure that is not the command's."""
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127

_NOT_FOUND_WORDS: Final = (
    "executable file not found",
    "no such file or directory",
    "system cannot find the file specified",
    "failed to run runc create/exec call",
)
_NOT_EXECUTABLE_WORDS: Final = ("permission denied", "is a directory")
_MOUNT_HINT: Final = (
    ": Are you trying to mount a directory onto a file (or vice-versa)? "
    "Check if the specified host path exists and is the expected type"
)


PREFIX: Final = "failed to create task for container: "


class Failure(NamedTuple):
    exit_code: int
    error: Error


def translate(cause: Error, prefix: str = PREFIX) -> Failure:
    """By its words: a runtime's refusal has no class of its own."""
    message = f"{prefix}{cause.message}"
    code = _code(message)
    if "not a directory" in message.lower():
        message += _MOUNT_HINT
    return Failure(code, (ServerError if code == NOT_STARTED else InvalidArgument)(message))


def _code(message: str) -> int:
    low = message.lower()
    if "not a directory" in low:
        return NOT_FOUND
    if any(words in low for words in _NOT_EXECUTABLE_WORDS):
        return NOT_EXECUTABLE
    return NOT_FOUND if any(words in low for words in _NOT_FOUND_WORDS) else NOT_STARTED


def code_of(cause: BaseException) -> int:
    """The exit code of a container whose start ended with `cause`: the command's fault only if the runtime says so."""
    message = str(cause)
    return _code(message) if message.startswith(PREFIX) else NOT_STARTED


def exec_code(cause: Error) -> int:
    """The exit code of an exec that couldn't be started."""
    return _code(cause.message)
