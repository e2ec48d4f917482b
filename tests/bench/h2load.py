"""nghttp2's h2load as a client of gRPC: calls as fast as a C program makes them, over the daemon's own socket.

A gRPC call is a POST with its message behind five bytes. h2load knows nothing of trailers, so that every answer
had the right length is what shows that calls were answered.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from support import goparts


class Load(NamedTuple):
    """What h2load saw: seconds altogether, and of each call."""

    elapsed: float
    calls: list[float]


class Wrong(RuntimeError):
    """Not every call was answered as it should be."""


def framed(message: bytes) -> bytes:
    """A message as gRPC frames it, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def load(
    address: Path,
    method: str,
    *,
    namespace: str,
    count: int,
    streams: int,
    answer: int,
    request: bytes = b"",
) -> Load:
    """`count` calls on one connection, `streams` at a time; `answer` is how long each message must be. Raises Wrong."""
    with tempfile.TemporaryDirectory(prefix="h2load-") as name:
        body, log = Path(name, "body"), Path(name, "log")
        body.write_bytes(framed(request))
        done = subprocess.run(
            [
                *(goparts.path("h2load"), "-n", str(count), "-c1", f"-m{streams}", "-t1", "-w30", "-W30"),
                *(f"--data={body}", f"--log-file={log}", f"--base-uri=unix:{address}"),
                *("-H", "content-type: application/grpc", "-H", "te: trailers"),
                *("-H", f"containerd-namespace: {namespace}", f"http://localhost{method}"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Wrong(f"h2load: {done.stderr or done.stdout}")
        return parse(done.stdout, log.read_text(), count, answer + 5)


def parse(said: str, log: str, count: int, length: int) -> Load:
    """From h2load's report and its log of calls; `length` is that of each answer's body. Raises Wrong."""
    elapsed = re.search(r"finished in ([\d.]+)(us|ms|s),", said)
    good = re.search(r"(\d+) succeeded", said)
    data = re.search(r"\((\d+)\) data", said)
    if not (elapsed and good and data):
        raise Wrong(f"h2load said: {said}")
    if int(good[1]) != count or int(data[1]) != count * length:
        raise Wrong(f"{good[1]} of {count} calls, {data[1]} bytes instead of {count * length}")
    seconds = float(elapsed[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[elapsed[2]]
    return Load(seconds, [int(line.split("\t")[2]) / 1e6 for line in log.splitlines()])
