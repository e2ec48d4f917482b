"""Stream processors: other people's programs that turn a layer of a kind we don't know into one that we do.

containerd's contract: the stream on stdin and stdout, the media type of what
comes in STREAM_PROCESSOR_MEDIATYPE, and the client's payload for this
processor, if there is one, as a serialised Any on descriptor 3. Only for
single-threaded workers: code runs between fork and exec.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any, Final

from longshore.layers.errors import InvalidLayer
from longshore.linux.processes import set_pdeathsig

MEDIA_TYPE: Final = "STREAM_PROCESSOR_MEDIATYPE"
_PAYLOAD: Final = 3
_LONGEST_MESSAGE: Final = 4096  # bytes of what a failed processor wrote to stderr


@contextmanager
def processed(fd: int, programs: Sequence[dict[str, Any]]) -> Iterator[int]:
    """A descriptor of what comes out of the last of `programs` when the first reads `fd`.

    Each has path, args, env (a list, [] inherits ours), media_type and
    payload (hex, "" for none). Raises InvalidLayer at the end of the block if
    one failed: that is then the reason of any error in the block, too.
    """
    with ExitStack() as stack:
        running = []
        for program in programs:
            messages = stack.enter_context(tempfile.TemporaryFile())
            process = _started(stack, program, fd, messages)
            assert process.stdout is not None
            fd = process.stdout.fileno()
            running.append((program, process, messages))
        try:
            yield fd
        except BaseException:
            for _, process, _ in running:
                _close(process)
            _check(running, unfinished_is_fine=True)
            raise
        for _, process, _ in running:
            _close(process)
        _check(running)


def _started(
    stack: ExitStack, program: dict[str, Any], fd: int, messages: IO[bytes]
) -> subprocess.Popen[bytes]:
    payload = bytes.fromhex(program["payload"])
    place: Callable[[], None] = _prepare
    if payload:
        file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        file.write(payload)
        file.seek(0)
        source = file.fileno()

        def place() -> None:
            os.dup2(source, _PAYLOAD)
            _prepare()

    environment = dict(entry.partition("=")[::2] for entry in program["env"]) or dict(os.environ)
    try:
        process = subprocess.Popen(
            [program["path"], *program["args"]],
            stdin=fd,
            stdout=subprocess.PIPE,
            stderr=messages,
            env={**environment, MEDIA_TYPE: program["media_type"]},
            close_fds=not payload,  # or descriptor 3 would be closed again; ours are all close-on-exec
            preexec_fn=place,
        )
    except OSError as error:
        raise InvalidLayer(f"stream processor {program['path']}: {error.strerror}") from None
    stack.callback(_end, process)
    return process


def _prepare() -> None:
    set_pdeathsig(9)


def _close(process: subprocess.Popen[bytes]) -> None:
    """Whoever still writes gets SIGPIPE."""
    if process.stdout is not None:
        process.stdout.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    _close(process)
    if process.poll() is None:
        process.kill()
    process.wait()


def _check(
    running: Sequence[tuple[dict[str, Any], subprocess.Popen[bytes], IO[bytes]]],
    *,
    unfinished_is_fine: bool = False,
) -> None:
    """The first that failed by itself is named; one that we stopped reading from (SIGPIPE) did not."""
    for program, process, messages in running:
        status = process.wait()
        if status == 0 or (unfinished_is_fine and status == -13):
            continue
        messages.seek(0)
        said = messages.read(_LONGEST_MESSAGE).decode(errors="replace").strip()
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        raise InvalidLayer(f"stream processor {program['path']}: {how}{': ' if said else ''}{said}")
