"""Log lines as runc writes them: text or JSON, to a file (appended) or to standard error."""

from __future__ import annotations

import os
import time

from longshore.oci import codec

LEVELS = ("debug", "info", "warning", "error")


class Log:
    """path "" is standard error; ``form`` is text or json."""

    def __init__(self, path: str = "", form: str = "text", debug: bool = False) -> None:
        self.path = path
        self.form = form
        self.debug = debug

    def write(self, level: str, message: str) -> None:
        """One line; debug lines only when asked for. A log that can't be written loses the line, not the verb."""
        if level == "debug" and not self.debug:
            return
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.form == "json":
            line = codec.dumps({"level": level, "msg": message, "time": moment}) + "\n"
        else:
            quoted = codec.dumps(message)
            line = f'time="{moment}" level={level} msg={quoted}\n'
        data = encoded(line)
        try:
            if not self.path:
                os.write(2, data)
                return
            # No O_TRUNC and no O_EXCL: the shim may have made it, or given us a FIFO.
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)
        except OSError:
            pass


def encoded(text: str) -> bytes:
    """Bytes of text that may hold names in no encoding."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half a character of a JSON document
        return text.encode(errors="replace")


_current = Log()


def use(log: Log) -> None:
    """Make ``log`` the one that `write` writes to."""
    global _current
    _current = log


def write(level: str, message: str) -> None:
    """One line to the log in use."""
    _current.write(level, message)


def debugging() -> bool:
    """Whether debug lines are wanted (they may be costly to make)."""
    return _current.debug
