"""What happens to tasks when the daemon starts: shims that outlived the last one are found again.

Containers notice nothing. Each bundle is looked at on its own, many at a time,
and calls for its task wait for just that (`Manager.get`):

1. What the shim wrote into the bundle is journalled.
2. The shim is asked who it is. No answer: it is dead and buried like one that
   dies while we watch.
3. It is asked for the state of the task and of each exec. What has ended, and
   the journal doesn't know of, is journalled. (Real containerd asks nothing,
   and deletes a task whose container ended while it was away.)
4. A shim without a task was left by a daemon that died in the middle of a
   Create: nobody waits for it, so it goes.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from contextlib import suppress

import structlog

from longshore.api.errors import DeadlineExceeded, Error, NotFound
from longshore.api.runtime.task.v3.shim_pb2 import PidsRequest, PidsResponse, StateRequest, StateResponse
from longshore.api.types.runc.options.oci_pb2 import ProcessDetails
from longshore.api.types.task.task_pb2 import STOPPED
from longshore.api.typeurls import type_name
from longshore.containerd.tasks.bootstrap import Bootstrap
from longshore.containerd.tasks.bundle import Bundle
from longshore.containerd.tasks.journal import reports_in
from longshore.containerd.tasks.ledger import Exit, Ledger
from longshore.containerd.tasks.manager import Manager
from longshore.containerd.tasks.runtimes import DEFAULT, Runtime
from longshore.containerd.tasks.shim import Shim
from longshore.containerd.tasks.shimlog import ShimLog
from longshore.ttrpc.aio import Client, Closed

log = structlog.get_logger("tasks")

# As many shims are asked at a time: enough to make the slow ones not matter.
PARALLEL = 32

OUR_OWN_LACK = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

RuntimeName = Callable[[str, str], str | None]
"""(namespace, container id) -> the container's runtime name, "" if it has none; None without such a container."""


class Recovery:
    """Takes the names of all bundles when made; `run` then finds out what they are."""

    def __init__(self, manager: Manager, runtime_name: RuntimeName) -> None:
        self._manager = manager
        self._runtime_name = runtime_name
        self._slots = asyncio.Semaphore(PARALLEL)
        self._found = [
            (bundle, ledger, manager.loading(bundle, ledger))
            for bundle, ledger in ((bundle, Ledger()) for bundle in manager.directories.bundles())
        ]

    async def run(self) -> None:
        """Recover every task. Failures are logged, each with its bundle."""
        await asyncio.gather(*(self._recover(*each) for each in self._found))

    async def _recover(self, bundle: Bundle, ledger: Ledger, loaded: Callable[[Shim | None], None]) -> None:
        shim: Shim | None = None
        async with self._slots:
            try:
                shim = await self._load(bundle, ledger)
            except Exception as error:
                log.error("task not recovered", namespace=bundle.namespace, id=bundle.id, exc_info=error)
            finally:
                loaded(shim)

    async def _load(self, bundle: Bundle, ledger: Ledger) -> Shim | None:
        if await asyncio.to_thread(bundle.is_empty):
            await asyncio.to_thread(bundle.remove)
            return None
        await self._manager.journal.left_behind(await asyncio.to_thread(reports_in, bundle))
        runtime = self._runtime(bundle)
        shim = await self._reconnect(bundle, runtime, ledger)
        if shim is None:
            log.info("cleaning up after dead shim", namespace=bundle.namespace, id=bundle.id)
            await self._note_recorded(bundle, ledger)
            await self._manager.bury(bundle, runtime, ledger)
            return None
        if not await self._take_stock(shim):
            log.info("cleaning up shim without a task", namespace=bundle.namespace, id=bundle.id)
            await self._manager.dismiss(shim)
            return None
        if shim.ledger.exit_of("") is not None and self._runtime_name(bundle.namespace, bundle.id) is None:
            # No call gets past the missing record: nobody could ever delete it.
            log.info(
                "cleaning up an ended task without a container", namespace=bundle.namespace, id=bundle.id
            )
            await self._manager.delete_task(shim)
            await self._manager.dismiss(shim)
            return None
        return shim

    def _runtime(self, bundle: Bundle) -> Runtime:
        name = self._runtime_name(bundle.namespace, bundle.id)
        return self._manager.runtimes.recorded(bundle.read_shim_binary(), name or DEFAULT)

    # -- is it alive? --

    async def _reconnect(self, bundle: Bundle, runtime: Runtime, ledger: Ledger) -> Shim | None:
        """The live shim of a bundle, None if it is dead."""
        timeout = self._manager.timeouts.load
        try:
            bootstrap = self._bootstrap(bundle, runtime)
            client = await Client.connect(bootstrap.address, timeout=timeout)
        except (OSError, Error) as error:
            if isinstance(error, OSError) and error.errno in OUR_OWN_LACK:
                raise  # it may well be alive: the next daemon will see
            log.debug("shim not reached", namespace=bundle.namespace, id=bundle.id, error=str(error))
            return None
        shim = Shim(bundle, runtime, bootstrap, client, ledger, ShimLog(bundle))
        try:
            ledger.started("", (await shim.connect(timeout)).task_pid)
        except (Closed, Error) as error:
            # A shim that hangs is as good as dead, as it is for containerd; so is one we have no language with.
            log.debug("shim did not answer", namespace=bundle.namespace, id=bundle.id, error=error.message)
            shim.hang_up()
            return None
        return shim

    def _bootstrap(self, bundle: Bundle, runtime: Runtime) -> Bootstrap:
        """How to reach the shim; one of ours is where it must be, should its file be lost. Raises OSError, Error."""
        try:
            return bundle.read_bootstrap()
        except (OSError, Error) as error:
            if not runtime.builtin:
                raise
            log.warning("no word on the shim", namespace=bundle.namespace, id=bundle.id, error=str(error))
            expected = self._manager.expected(bundle)
            with suppress(OSError):
                bundle.write_bootstrap(expected)
            return expected

    async def _note_recorded(self, bundle: Bundle, ledger: Ledger) -> None:
        """What ran under a dead shim, as its pid files tell."""
        for id, pid in await asyncio.to_thread(bundle.recorded_pids):
            ledger.started(id, pid)

    # -- what does it know? --

    async def _take_stock(self, shim: Shim) -> bool:
        """Learn of processes and journal the exits that were missed; False if the shim has no task."""
        state = await self._state(shim, "")
        if state is None:
            return False
        ended = []
        for exec_id in await self._exec_ids(shim):
            found = await self._state(shim, exec_id)
            ended += _note(shim.ledger, exec_id, found)
        ended += _note(shim.ledger, "", state)
        await self._manager.journal.found(shim.bundle.namespace, shim.id, ended)
        return True

    async def _state(self, shim: Shim, exec_id: str) -> StateResponse | None:
        """The state of a process, None when there is none. A shim too busy to say so has an empty one."""
        try:
            return await shim.call(
                "State",
                StateRequest(id=shim.id, exec_id=exec_id),
                StateResponse,
                timeout=self._manager.timeouts.state,
            )
        except NotFound:
            return None
        except DeadlineExceeded:
            return StateResponse(id=shim.id, exec_id=exec_id)

    async def _exec_ids(self, shim: Shim) -> list[str]:
        """Execs that run (Pids knows) and those that ended and were not deleted (their pid files are there)."""
        ids = {id for id, _ in await asyncio.to_thread(shim.bundle.recorded_pids) if id}
        try:
            pids = await shim.call(
                "Pids", PidsRequest(id=shim.id), PidsResponse, timeout=self._manager.timeouts.state
            )
        except Error:  # the container has ended
            return sorted(ids)
        for process in pids.processes:
            if type_name(process.info) == ProcessDetails.DESCRIPTOR.full_name:
                ids.add(ProcessDetails.FromString(process.info.value).exec_id)
        return sorted(ids)


def _note(ledger: Ledger, id: str, state: StateResponse | None) -> list[Exit]:
    """Enter a process into the ledger; its exit, if it has ended."""
    if state is None or not state.pid:
        return []
    ledger.started(id, state.pid)
    if state.status != STOPPED:
        return []
    end = Exit(id, state.pid, state.exit_status, state.exited_at)
    ledger.exited(end)
    return [end]
