"""A start that failed: what the client is told, and the exit code that the container gets."""

from __future__ import annotations

from typing import Final

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


class BadCommand(InvalidArgument):
    """The container's command can't be run: the client's fault."""

    exit_code = NOT_FOUND


class NotStarted(ServerError):
    exit_code = NOT_STARTED


def translate(cause: Error) -> BadCommand | NotStarted:
    """By its words: a runtime's refusal has no class of its own."""
    message = cause.message
    code = exec_code(cause)
    if "not a directory" in message.lower():
        message += _MOUNT_HINT
    error = (NotStarted if code == NOT_STARTED else BadCommand)(message)
    error.exit_code = code
    return error


def code_of(cause: BaseException) -> int:
    """The exit code of a container whose start ended with `cause`."""
    return cause.exit_code if isinstance(cause, (BadCommand, NotStarted)) else NOT_STARTED


def exec_code(cause: Error) -> int:
    """The exit code that a process gets that couldn't be started."""
    low = cause.message.lower()
    if low.startswith("unable to find "):
        return NOT_EXECUTABLE
    if "not a directory" in low:
        return NOT_FOUND
    if any(words in low for words in _NOT_EXECUTABLE_WORDS):
        return NOT_EXECUTABLE
    return NOT_FOUND if any(words in low for words in _NOT_FOUND_WORDS) else NOT_STARTED
