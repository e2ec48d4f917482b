"""Brings the rules of `rules.py` into the kernel: one iptables-restore for a whole set of changes.

Changes that arrive while one is under way wait and go in together. A change
is first tried as it is (5 ms); it names our own anchor rules, so when somebody
has flushed the filter it is refused, and then everything is compared with
iptables-save and made again.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import structlog

from longshore.dockerd.errors import ServerError
from longshore.dockerd.network import rules
from longshore.dockerd.network.rules import Rule

log = structlog.get_logger(__name__)


class _Change(NamedTuple):
    add: tuple[Rule, ...]
    remove: tuple[Rule, ...]
    done: asyncio.Future[None]


class Firewall:
    """The rules of one IP version. `hairpin`: ports are published without a userland proxy."""

    def __init__(self, version: int, *, hairpin: bool) -> None:
        self._version = version
        self._hairpin = hairpin
        self._command = "iptables" if version == 4 else "ip6tables"
        # In the order of their making; a dict as an ordered set.
        self._wanted: dict[Rule, None] = {}
        self._waiting: list[_Change] = []
        self._running: asyncio.Task[None] | None = None
        self._policy = False

    @property
    def available(self) -> bool:
        return shutil.which(f"{self._command}-restore") is not None

    async def change(self, add: Iterable[Rule] = (), remove: Iterable[Rule] = ()) -> None:
        """All of it or nothing; what is already so is fine. ServerError with the tool's own words."""
        change = _Change(tuple(add), tuple(remove), asyncio.get_running_loop().create_future())
        if not change.add and not change.remove:
            return
        self._waiting.append(change)
        if self._running is None:
            self._running = asyncio.create_task(self._work())
        await asyncio.shield(change.done)

    def close_forwarding(self) -> None:
        """We turned forwarding on, so nothing may pass that no rule allows."""
        self._policy = True

    def expect(self, wanted: Iterable[Rule]) -> None:
        """These are to be there; `ensure` sees to it."""
        self._wanted.update(dict.fromkeys(wanted))

    async def ensure(self, remove: Sequence[Rule] = ()) -> None:
        """Compare everything with what is there, and make what is missing."""
        for rule in remove:
            self._wanted.pop(rule, None)
        listing = rules.Listing(await self._run("save"))
        if not self._wanted and not remove:
            return
        text = rules.repair(listing, tuple(self._wanted), remove, self._hairpin, self._version)
        if self._policy and not listing.drops():
            text += "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"
        if text:
            await self._run("restore", text)

    async def clear(self) -> None:
        """Take everything of ours away: nothing needs it any more."""
        listing = rules.Listing(await self._run("save"))
        text = rules.clear(listing, tuple(self._wanted), self._hairpin, self._version)
        if self._policy:
            text += "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
        self._wanted.clear()
        if text:
            await self._run("restore", text)

    async def _work(self) -> None:
        try:
            while self._waiting:
                changes, self._waiting = self._waiting, []
                try:
                    await self._apply(changes)
                except BaseException as error:
                    _fail(changes, error)
                    raise
        finally:
            self._running = None
            _fail(self._waiting, ServerError("the packet filter is no longer changed"))
            self._waiting = []

    async def _apply(self, changes: list[_Change]) -> None:
        try:
            await self._together(changes)
        except (ServerError, OSError) as error:
            if len(changes) == 1:
                changes[0].done.set_exception(error)
                return
            for change in changes:
                await self._apply([change])
            return
        for change in changes:
            change.done.set_result(None)

    async def _together(self, changes: list[_Change]) -> None:
        before = dict(self._wanted)
        add: list[Rule] = []
        remove: list[Rule] = []
        for change in changes:
            for rule in change.remove:
                self._wanted.pop(rule, None)
                remove.append(rule)
            for rule in change.add:
                if rule not in self._wanted:
                    self._wanted[rule] = None
                    add.append(rule)
        try:
            await self._quick_or_repair(add, remove)
        except BaseException:
            self._wanted = before
            raise

    async def _quick_or_repair(self, add: list[Rule], remove: list[Rule]) -> None:
        again = [rule for rule in remove if rule in self._wanted]
        gone = [rule for rule in remove if rule not in self._wanted]
        if not again:
            try:
                await self._run("restore", rules.quick(add, gone, self._hairpin, self._version))
                return
            except ServerError:
                pass  # something is missing, or was there already: see what
        await self.ensure(gone)

    async def _run(self, verb: str, text: str = "") -> str:
        words = [f"{self._command}-{verb}"]
        if verb == "restore":
            words += ["--noflush", "--wait", "10"]
        try:
            done = await asyncio.to_thread(subprocess.run, words, input=text.encode(), capture_output=True)
        except FileNotFoundError:
            raise ServerError(
                f"{words[0]} is not installed: networks need iptables (or start dockerd with --iptables=false)"
            ) from None
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip()
            raise ServerError(f"{' '.join(words)} failed: {reason} (exit status {done.returncode})")
        return done.stdout.decode(errors="replace")


def _fail(changes: Iterable[_Change], error: BaseException) -> None:
    for change in changes:
        if not change.done.done():
            change.done.set_exception(error)
