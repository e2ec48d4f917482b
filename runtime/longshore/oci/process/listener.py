"""seccomp's user notifications: the program that listens (linux.seccomp.listenerPath) gets the filter's descriptor.

The connection is made by the runtime; the process that loads the filter sends
descriptor and state over it with one prepared sendmsg, the only system call
between the filter and execve that is not the process' own. So a filter that
notifies about sendmsg could never be announced, and is refused.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

from longshore.linux import seccomp
from longshore.oci import codec
from longshore.oci.errors import InvalidConfig, StartFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NOTIFY = "SCMP_ACT_NOTIFY"
# write is runc's rule, which sends its descriptor with it.
_OURS = ("sendmsg", "write")
_LIMIT = 60000


def wanted(profile: dict[str, Any]) -> bool:
    """Whether a profile notifies; InvalidConfig if nobody could be told."""
    if profile.get("defaultAction") == NOTIFY:
        raise InvalidConfig(_failed(f"unable to init seccomp: {NOTIFY} cannot be used as default action"))
    names = [
        name
        for group in profile.get("syscalls") or ()
        if group.get("action") == NOTIFY
        for name in group.get("names") or ()
    ]
    for name in _OURS:
        if name in names:
            raise InvalidConfig(
                _failed(f"unable to init seccomp: {NOTIFY} cannot be used for the {name} syscall")
            )
    if names and not profile.get("listenerPath"):
        raise InvalidConfig(_failed("listenerPath is not set"))
    return bool(names)


def _failed(reason: str) -> str:
    return f"unable to start container process: {reason}"


def connect(path: str) -> int:
    """A connection to the listening program, to be inherited."""
    connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        reason = f"dial unix {path}: connect: {(error.strerror or '').lower()}"
        raise StartFailed(
            _failed(f"failed to connect with seccomp agent specified in the seccomp profile: {reason}")
        ) from None
    return connection.detach()


def message(metadata: str, pid: int, state: dict[str, Any]) -> str:
    """The specification's container process state."""
    shown: dict[str, Any] = {"ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": pid}
    if metadata:
        shown["metadata"] = metadata
    text = codec.dumps({**shown, "state": state})
    if len(text) > _LIMIT:
        raise InvalidConfig("annotations and listenerMetadata are too long for a seccomp listener")
    return text


def arm(filter: seccomp.Filter | None, connection: int, text: str) -> None:
    """In the process, its other descriptors settled: have the filter's load announce itself."""
    if filter is None or connection < 0:
        return
    lowest = os.dup(0)
    os.close(lowest)
    filter.announce(connection, lowest, text.encode(errors="surrogateescape"))
