"""What can go wrong, as a closed set. Messages are runc's: shims and daemons look for their words."""

from __future__ import annotations


class RuntimeFailure(Exception):
    """A verb could not be done; ``str()`` is the message for the user and the log."""

    exit_code = 1


class InvalidId(RuntimeFailure):
    """The id has a form that can't be a container's."""


class InvalidConfig(RuntimeFailure):
    """config.json, or process.json, asks for what can't be."""


class NotFound(RuntimeFailure):
    """No container with that id."""

    def __init__(self, message: str = "container does not exist") -> None:
        super().__init__(message)


class AlreadyExists(RuntimeFailure):
    """There is a container with that id."""

    def __init__(self, message: str = "container with given ID already exists") -> None:
        super().__init__(message)


class WrongState(RuntimeFailure):
    """The verb doesn't apply to a container in this state."""


class NotRunning(WrongState):
    """The container has no process (any more)."""

    def __init__(self, message: str = "container not running") -> None:
        super().__init__(message)


class StartFailed(RuntimeFailure):
    """The container, or a process in it, could not be brought to the point of execve."""


class ProcessDied(StartFailed):
    """It ended before that, and nothing was heard of why."""


class HookFailed(RuntimeFailure):
    """A hook ended with an error or outlived its timeout."""


class ProtocolError(RuntimeFailure):
    """The process we forked said something else than expected."""

    def __init__(self, expected: str, received: str) -> None:
        super().__init__(f"expected message {expected} from the container's process, received {received}")
        self.expected = expected
        self.received = received


def explain(error: BaseException) -> str:
    """An exception in one line: an OSError as "call path: reason", in Go's lower case."""
    if isinstance(error, RuntimeFailure):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        call, _, reason = error.strerror.rpartition(": ")
        reason = reason[:1].lower() + reason[1:]
        words = [word for word in (call, error.filename if isinstance(error.filename, str) else "") if word]
        return f"{' '.join(words)}: {reason}" if words else reason
    if type(error) is ValueError:
        return str(error)
    return f"{type(error).__name__}: {error}"
