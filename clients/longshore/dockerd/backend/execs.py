"""Processes beside a container's own: registered, started with or without a client, ended."""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from longshore.api.errors import Error, FailedPrecondition, InvalidArgument, NotFound
from longshore.api.services.tasks.v1 import tasks_pb2
from longshore.client import users
from longshore.client.io import Null, Pipes, Reader
from longshore.client.spec import merge_env, own_capabilities
from longshore.client.tasks import Process
from longshore.dockerd.backend import attach, detach, failures
from longshore.dockerd.backend.exits import Exit
from longshore.dockerd.backend.frames import framing
from longshore.dockerd.backend.live import Live
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.errors import Conflict
from longshore.dockerd.records import Document
from longshore.dockerd.spec import process as processes

DRAIN_SECONDS: Final = 2.0
"""For the last output of an exec that has ended to arrive; whoever inherited its pipes may keep them for ever."""
HEIRS_BLOCKS: Final = 64
"""More than pipes hold: what comes behind it is not the ended process's."""
KEPT_SECONDS: Final = 300.0
"""How long an ended exec can be inspected."""


class ExecBody(Document):
    """POST /containers/{id}/exec."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: list[int] | None = None
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: list[str] | None = None


@dataclass(eq=False)
class Exec:
    id: str
    live: Live
    body: ExecBody
    command: list[str]
    process: Process | None = None
    pid: int = 0
    exit_code: int | None = None
    begun: bool = False
    running: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Its exit is known, and its exit code."""

    @property
    def words(self) -> str:
        return " ".join(self.command)

    def container_ended(self) -> None:
        """Its own exit is told before the container's; this is for one that was never told."""
        if self.running:
            self.running, self.exit_code = False, 137
            self.over.set()


class Wish(NamedTuple):
    """What a start asks for."""

    terminal: bool
    detach: bool
    console_size: Sequence[int] | None = None


class _Pipes:
    """The pipes of an exec, as `attach.join` wants streams."""

    def __init__(self, process: Process) -> None:
        self._streams = process.streams
        self._blocks = 0
        self._idle = True
        """Nothing is on its way to the client."""

    async def settle(self, reading: asyncio.Future[Any]) -> None:
        """Of a process that has ended: until `reading` is done, or has passed on all, however slow the client is."""
        limit = self._blocks + HEIRS_BLOCKS
        await asyncio.wait((reading,), timeout=DRAIN_SECONDS)
        before = -1
        while not reading.done() and self._blocks < limit and not (self._idle and self._blocks == before):
            before = self._blocks
            await asyncio.wait((reading,), timeout=DRAIN_SECONDS / 8)

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        if self._streams is None:
            return
        queue: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(16)
        readers = {"stdout": self._streams.stdout, "stderr": self._streams.stderr}
        pumps = [
            asyncio.create_task(self._pump(name, reader, queue)) for name, reader in readers.items() if reader
        ]
        left = len(pumps)
        try:
            while left:
                self._idle = queue.empty()
                item = await queue.get()
                self._idle = False
                if item is None:
                    left -= 1
                else:
                    yield item
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, name: str, reader: Reader, queue: asyncio.Queue[tuple[str, bytes] | None]) -> None:
        try:
            async for block in reader:
                self._blocks += 1
                await queue.put((name, block))
        finally:
            await queue.put(None)

    async def write(self, data: bytes) -> None:
        if self._streams is not None and self._streams.stdin is not None:
            await self._streams.stdin.write(data)

    async def close_stdin(self) -> None:
        if self._streams is not None and self._streams.stdin is not None:
            await self._streams.stdin.close()


async def _dropped(pipes: _Pipes) -> None:
    async for _ in pipes.output():
        pass


async def _collected(pipes: _Pipes, into: bytearray, limit: int) -> None:
    async for _, data in pipes.output():
        into += data[: limit - len(into)]


class Execs:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._execs: dict[str, Exec] = {}
        self._draining: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Leave the running ones; their pipes stay for whoever reads them."""
        tasks = list(self._draining)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def find(self, id: str) -> Exec:
        """Raises NotFound."""
        found = self._execs.get(id)
        if found is None:
            raise NotFound(f"No such exec instance: {id}")
        return found

    def create(self, live: Live, body: ExecBody, name: str = "") -> Exec:
        """`name` is what the client calls the container. Raises Conflict unless it runs."""
        self._running(live, name)
        command = list(body.cmd or ())
        self._drop_stale()
        made = Exec(secrets.token_hex(32), live, body, command)
        self._execs[made.id] = live.execs[made.id] = made
        self._parts.publish(live, f"exec_create: {made.words}", {"execID": made.id})
        return made

    def _drop_stale(self) -> None:
        """Those that were never started, and whose container has ended."""
        for id in [id for id, each in self._execs.items() if not each.begun and not each.live.has_process]:
            self._execs.pop(id).live.execs.pop(id, None)

    def _running(self, live: Live, name: str = "") -> None:
        status, name = live.record.state.status, name or live.id
        if status == "paused":
            raise Conflict(f"Container {name} is paused, unpause the container before exec")
        if status == "restarting":
            raise Conflict(f"Container {name} is restarting, wait until the container is running")
        if status != "running":
            raise Conflict(f"Container {live.id} is not running")

    def check(self, found: Exec) -> None:
        """Before its start. Raises Conflict."""
        if found.running:
            raise Conflict(f"Error: Exec command {found.id} is already running")
        if found.begun:
            raise Conflict(f"Error: Exec command {found.id} has already run")
        self._running(found.live)

    async def start(self, found: Exec, wish: Wish) -> None:
        """Run it. Raises what the runtime says; its exit code tells the same."""
        self.check(found)
        found.begun = True
        body = found.body
        wanted: Pipes | Null = Null()
        if wish.detach and body.tty:
            wanted = Pipes(stdout=True, stderr=False, terminal=True)  # a terminal needs somebody who reads
        elif not wish.detach:
            wanted = Pipes(
                stdin=body.attach_stdin,
                stdout=body.attach_stdout or body.tty,
                stderr=body.attach_stderr,
                terminal=body.tty,
            )
        self._parts.publish(found.live, f"exec_start: {found.words}", {"execID": found.id})
        try:
            await self._run(found, wanted, wish)
        except Error as error:
            found.exit_code = failures.exec_code(error)
            await self._delete(found.live.id, found.id)
            self._release(found)
            self._forget(found)
            found.over.set()
            raise _told(error, found.exit_code) from error
        if wish.detach and body.tty:
            self._let_go(found)

    async def _run(self, found: Exec, wanted: Pipes | Null, wish: Wish) -> None:
        spec = await self._process(found, wish)
        task = await self._task(found.live)
        found.process = await task.exec(spec, io=wanted, exec_id=found.id)
        found.running = True
        try:
            tasks = self._parts.client.tasks
            request = tasks_pb2.StartRequest(container_id=found.live.id, exec_id=found.id)
            found.pid = (await tasks.call(tasks.stub.Start, request)).pid
            found.process._attach()
        except BaseException:
            found.running = False
            raise

    async def _task(self, live: Live) -> Any:
        from longshore.client.tasks import Task

        return Task(self._parts.client.tasks, live.id)

    async def _process(self, found: Exec, wish: Wish) -> dict[str, Any]:
        """The container's own process object, edited."""
        live, body = found.live, found.body
        if live.process is None:
            live.process = (await self._parts.client.containers.get(live.id)).spec["process"]
        base = dict(live.process)
        base |= {"args": found.command, "terminal": body.tty}
        base["env"] = merge_env(list(base.get("env") or ()), body.env or ())
        if body.tty:
            base["env"] = merge_env(["TERM=xterm"], base["env"])
        if body.working_dir:
            base["cwd"] = body.working_dir
        if body.user:
            try:
                base["user"] = await self._user(live, body.user)
            except Error as error:
                raise UnknownUser(error.message) from error
        if body.privileged or body.user:
            host = live.record.host_config
            allowed = own_capabilities() if body.privileged else processes.capabilities(host)
            root = body.privileged or base["user"]["uid"] == 0
            kinds = ("bounding", "effective", "permitted") if root else ("bounding",)
            base["capabilities"] = {kind: list(allowed) for kind in kinds}
        base.pop("consoleSize", None)
        size = wish.console_size or body.console_size
        if body.tty and size and len(size) == 2:
            base["consoleSize"] = {"height": size[0], "width": size[1]}
        return base

    async def _user(self, live: Live, name: str) -> dict[str, Any]:
        if live.mounts is None:
            live.mounts = await self._parts.snapshots(live).mounts(live.id)
        return processes.user_of(name, live.record.host_config.group_add or (), users.layers(live.mounts))

    async def serve(self, found: Exec, connection: attach.Connection, wish: Wish) -> None:
        """Start it and join its streams with the client's until both its output and it have ended."""
        body = found.body
        try:
            await self.start(found, wish)
        except Error as error:
            # The answer has begun: the client reads the reason as output, the code by inspect.
            framed = framing(wish.terminal)
            await connection.write(framed("stdout", error.message.encode() + b"\r\n"))
            return
        assert found.process is not None
        outputs = frozenset(
            name
            for name, wanted in (("stdout", body.attach_stdout), ("stderr", body.attach_stderr))
            if wanted
        )
        wishes = attach.Wishes(
            body.attach_stdin, outputs, body.tty, not wish.terminal, detach.parse(body.detach_keys)
        )
        pipes = _Pipes(found.process)
        joined = asyncio.ensure_future(attach.join(connection, pipes, wishes))
        over = asyncio.ensure_future(found.over.wait())
        try:
            await asyncio.wait((joined, over), return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                await pipes.settle(joined)
            elif joined.exception() is None and not joined.result():
                await over  # the output has ended first: the client will ask for the exit code
            elif joined.exception() is None:
                self._parts.publish(found.live, "exec_detach", {"execID": found.id})
        finally:
            joined.cancel()
            over.cancel()
            await asyncio.gather(joined, over, return_exceptions=True)
            self._let_go(found)

    def _let_go(self, found: Exec) -> None:
        """The client has left. What the process still prints is read and dropped, so that it doesn't block."""
        if found.over.is_set():
            self._release(found)
            return
        task = asyncio.create_task(self._drain(found))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _drain(self, found: Exec) -> None:
        assert found.process is not None
        pipes = _Pipes(found.process)
        reading = asyncio.ensure_future(_dropped(pipes))
        try:
            await found.over.wait()
            await pipes.settle(reading)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            self._release(found)

    async def probe(
        self, live: Live, command: Sequence[str], seconds: float, limit: int
    ) -> tuple[int, bytes]:
        """Run a command to its end: exit code and the first `limit` bytes of its output.

        Raises TimeoutError (the command is killed), and what the runtime says.
        """
        body = ExecBody(cmd=list(command), attach_stdout=True, attach_stderr=True)
        found = self.create(live, body)
        await self.start(found, Wish(terminal=False, detach=False))
        assert found.process is not None
        output = bytearray()
        pipes = _Pipes(found.process)
        reading = asyncio.ensure_future(_collected(pipes, output, limit))
        try:
            async with asyncio.timeout(seconds):
                await found.over.wait()
            await pipes.settle(reading)
        except BaseException:
            with suppress(Error):
                await found.process.kill(9)
            raise
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            self._let_go(found)
            self._execs.pop(found.id, None)  # nobody will inspect it
        return found.exit_code or 0, bytes(output)

    async def ended(self, live: Live | None, container: str, id: str, exit: Exit) -> None:
        """containerd tells of an exit; of one that we don't know, only its rest is removed."""
        found = self._execs.get(id)
        if found is not None and found.running:
            found.exit_code, found.running = exit.exit_code, False
            found.over.set()
            if live is not None:
                self._parts.publish(live, "exec_die", {"execID": id, "exitCode": str(exit.exit_code)})
            self._forget(found)
        # Nobody waits for this: the shim answers when it has copied the last output.
        await self._delete(container, id)

    async def _delete(self, container: str, id: str) -> None:
        tasks = self._parts.client.tasks
        request = tasks_pb2.DeleteProcessRequest(container_id=container, exec_id=id)
        with suppress(NotFound, FailedPrecondition, Error):
            await tasks.call(tasks.stub.DeleteProcess, request)

    def _release(self, found: Exec) -> None:
        if found.process is not None and found.process.streams is not None:
            found.process.streams.close()

    def _forget(self, found: Exec) -> None:
        """It can be inspected a while longer."""
        found.live.execs.pop(found.id, None)
        loop = asyncio.get_running_loop()
        loop.call_later(KEPT_SECONDS, self._execs.pop, found.id, None)

    async def resize(self, found: Exec, height: int, width: int) -> None:
        if not found.running:
            raise Conflict(f"Exec process {found.id} is not running")
        tasks = self._parts.client.tasks
        request = tasks_pb2.ResizePtyRequest(
            container_id=found.live.id, exec_id=found.id, width=width, height=height
        )
        await tasks.call(tasks.stub.ResizePty, request)


class UnknownUser(InvalidArgument):
    """Found out before any runtime is asked."""


def _told(cause: Error, code: int | None) -> Error:
    """What a client hears of a start that failed: a command that can't be run is the client's fault."""
    if isinstance(cause, UnknownUser):
        return cause
    begin, message = "OCI runtime exec failed", cause.message
    words = message if message.startswith(begin) else f"{begin}: {message}"
    own = code in (failures.NOT_EXECUTABLE, failures.NOT_FOUND)
    return InvalidArgument(words) if own else type(cause)(words)


def describe(found: Exec) -> dict[str, Any]:
    """GET /exec/{id}/json."""
    body = found.body
    entry, *arguments = found.command or [""]
    return {
        "ID": found.id,
        "Running": found.running,
        "ExitCode": found.exit_code,
        "ProcessConfig": {
            "tty": body.tty,
            "entrypoint": entry,
            "arguments": arguments,
            "privileged": body.privileged,
            **({"user": body.user} if body.user else {}),
        },
        "OpenStdin": body.attach_stdin,
        "OpenStderr": body.attach_stderr,
        "OpenStdout": body.attach_stdout,
        "CanRemove": False,
        "ContainerID": found.live.id,
        "DetachKeys": b64encode(detach.parse(body.detach_keys)).decode() if body.detach_keys else "",
        "Pid": found.pid,
    }
