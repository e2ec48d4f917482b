"""A logger's life played through in dockerd's zygote: see `longshore.zygote.main`.

All happens in a folder that is gone at the end; its name is one that later
rehearsals know for theirs (`longshore.shim.rehearsal`), should this one be killed.
"""

from __future__ import annotations

import os
import shutil
import socket
from typing import Any

from longshore.dockerd.logs import wire
from longshore.dockerd.logs.logger import Logger


def rehearse(directory: str, rounds: int) -> None:
    """Log what `rounds` containers print. Raises OSError."""
    folder = f"{directory}/longshore-{os.getpid()}-{os.urandom(6).hex()}"
    os.mkdir(folder, 0o700)
    try:
        for name in wire.FIFOS.values():
            os.mkfifo(f"{folder}/{name}")
        for number in range(rounds):
            _life(folder, attached=number % 2 == 0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _life(folder: str, *, attached: bool) -> None:
    logger = Logger(_arguments(folder))
    outputs = [os.open(f"{folder}/{name}", os.O_WRONLY) for name in wire.FIFOS.values()]
    logger.begin()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{folder}/{wire.SOCKET}")
        logger.step(0)
        if attached:
            client.send(wire.frame(wire.ATTACH))
            logger.step(0)
        for output in outputs:
            os.write(output, b"a line\nanother\n")
        logger.step(0)
        client.send(wire.frame(wire.FINISH))
        for output in outputs:
            os.close(output)
        while logger.step(0):
            pass
        logger.finish()


def _arguments(folder: str) -> dict[str, Any]:
    return {
        "folder": folder,
        "driver": "json-file",
        "path": f"{folder}/log",
        "limits": [0, 1, False],
        "attrs": "",
        "stdin": False,
        "stderr": True,
    }
