"""Our terminal, or whatever our standard streams are, joined to a process in a container."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from longshore.api.errors import Error
from longshore.ctr.command import Failure

if TYPE_CHECKING:
    from longshore.client.io import Reader, Writer
    from longshore.client.tasks import ExitStatus, Process

BLOCK = 64 << 10

# All but those that concern this process alone.
FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
    signal.SIGALRM,
)


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Every key goes to the process, ^C too; the old settings come back at the end."""
    import termios
    import tty

    fd = sys.stdin.fileno()
    if not os.isatty(fd):
        raise Failure("standard input is no terminal", "leave out -t, or run ctr from a terminal")
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


async def input_blocks(fd: int) -> AsyncIterator[bytes]:
    """What comes in on a descriptor that we share with others, and so can't make non-blocking."""
    loop = asyncio.get_running_loop()
    while True:
        ready = asyncio.Event()
        try:
            loop.add_reader(fd, ready.set)
        except OSError:  # a file, which is always ready, or a descriptor that is closed
            ready.set()
        try:
            await ready.wait()
        finally:
            with suppress(OSError):
                loop.remove_reader(fd)
        try:
            block = os.read(fd, BLOCK)
        except OSError:  # a terminal that hung up, or no standard input at all
            return
        if not block:
            return
        yield block


async def pump_input(writer: Writer) -> None:
    """Our standard input into the process; its end, too."""
    with suppress(BrokenPipeError, Error):
        async for block in input_blocks(0):
            await writer.write(block)
        await writer.close()


async def pump_output(reader: Reader, fd: int) -> None:
    """What the process prints to a descriptor of ours; when that is closed, the rest is dropped."""
    broken = False
    async for block in reader:
        view = memoryview(block)
        while view and not broken:
            try:
                view = view[os.write(fd, view) :]
            except BrokenPipeError:
                broken = True


@contextmanager
def forwarded_signals(process: Process) -> Iterator[None]:
    """Signals that we get go to the process."""
    loop = asyncio.get_running_loop()
    sending: set[asyncio.Task[None]] = set()

    async def send(number: int) -> None:
        with suppress(Error):  # it has ended meanwhile
            await process.kill(number)

    def forward(number: int) -> None:
        task = loop.create_task(send(number))
        sending.add(task)
        task.add_done_callback(sending.discard)

    for number in FORWARDED:
        loop.add_signal_handler(number, forward, number)
    try:
        yield
    finally:
        for number in FORWARDED:
            loop.remove_signal_handler(number)


@contextmanager
def following_size(process: Process) -> Iterator[None]:
    """The process's terminal has the size of ours."""
    loop = asyncio.get_running_loop()
    resizing: set[asyncio.Task[Any]] = set()

    async def resize() -> None:
        with suppress(Error, OSError):
            size = os.get_terminal_size(sys.stdin.fileno())
            await process.resize(size.columns, size.lines)

    def changed() -> None:
        task = loop.create_task(resize())
        resizing.add(task)
        task.add_done_callback(resizing.discard)

    changed()
    loop.add_signal_handler(signal.SIGWINCH, changed)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


async def converse(process: Process, *, terminal: bool, start: bool = True) -> ExitStatus:
    """Start a process (unless it runs) and be its terminal until it ends; answers its exit status."""
    with raw_terminal_if(terminal):
        if start:
            await process.start()
        streams = process.streams
        output = []
        if streams is not None and streams.stdout is not None:
            output.append(asyncio.ensure_future(pump_output(streams.stdout, 1)))
        if streams is not None and streams.stderr is not None:
            output.append(asyncio.ensure_future(pump_output(streams.stderr, 2)))
        feeding = None
        if streams is not None and streams.stdin is not None:
            feeding = asyncio.ensure_future(pump_input(streams.stdin))
        try:
            with following_size(process) if terminal else forwarded_signals(process):
                status = await process.wait()
                await asyncio.gather(*output)
                return status
        finally:
            for task in [*output, *([feeding] if feeding else [])]:
                task.cancel()
            await asyncio.gather(*output, *([feeding] if feeding else []), return_exceptions=True)


@contextmanager
def raw_terminal_if(wanted: bool) -> Iterator[None]:
    if wanted:
        with raw_terminal():
            yield
    else:
        yield
