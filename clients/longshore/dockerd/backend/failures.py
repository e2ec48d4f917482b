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


class Failure(NamedTuple):
    exit_code: int
    error: Error


def translate(cause: Error, prefix: str = "failed to create task for container: ") -> Failure:
    """By its words: a runtime's refusal has no class of its own."""
    message = f"{prefix}{cause.message}" if prefix else cause.message
    low = message.lower()
    code = NOT_STARTED
    if any(words in low for words in _NOT_FOUND_WORDS):
        code = NOT_FOUND
    if any(words in low for words in _NOT_EXECUTABLE_WORDS):
        code = NOT_EXECUTABLE
    if "not a directory" in low:
        code, message = NOT_FOUND, message + _MOUNT_HINT
    return Failure(code, (ServerError if code == NOT_STARTED else InvalidArgument)(message))


def exec_code(cause: Error) -> int:
    """The exit code of an exec that couldn't be started."""
    return translate(cause, "").exit_code
