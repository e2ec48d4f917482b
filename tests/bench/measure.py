"""Taking turns, and what a turn is charged with: time by the clock, CPU seconds, memory.

Two (or more) sides do the same work a round each, A B B A A B ..., so that a
busy neighbour hits both. What a side takes is kept by measure: seconds (or
bytes) of each piece of work in its turn, the CPU that the side used for it, and
its memory afterwards. `bench.report` makes figures of it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from support import goparts

CGROUPS = Path("/sys/fs/cgroup")


class Side(Protocol):
    """Who takes turns."""

    @property
    def name(self) -> str:
        """Of the column in the table: "ours" or "go", or of one beside them."""

    def cpu(self) -> float:
        """Seconds used so far."""

    def memory(self) -> int:
        """Bytes in use now; 0 if that isn't asked of this side."""


S = TypeVar("S", bound=Side)
T = TypeVar("T")


@dataclass
class Taken:
    """What one side took for one measure: values by turn, CPU seconds for so many pieces, the largest memory."""

    turns: list[list[float]] = field(default_factory=list)
    cpu: float = 0.0
    pieces: int = 0
    memory: int = 0

    @property
    def values(self) -> list[float]:
        return [value for turn in self.turns for value in turn]


Found = dict[str, dict[str, Taken]]  # by measure, by side


class Turn:
    """One side's turn; measures are named as they come."""

    def __init__(self, side: Side, found: Found) -> None:
        self._side, self._found = side, found
        self._begun: set[str] = set()
        self._weighed: set[str] = set()

    def _taken(self, name: str) -> Taken:
        taken = self._found.setdefault(name, {}).setdefault(self._side.name, Taken())
        if name not in self._begun:
            self._begun.add(name)
            taken.turns.append([])
        return taken

    @property
    def first(self) -> bool:
        """Whether nothing was measured in this turn yet."""
        return not self._begun

    def took(self, name: str, value: float) -> None:
        """One value: seconds, bytes, or a number of something."""
        self._taken(name).turns[-1].append(value)

    def beside(self, name: str, who: str, value: float) -> None:
        """A value of somebody who takes no turns, shown in the same row."""
        self._found.setdefault(name, {}).setdefault(who, Taken([[]])).turns[-1].append(value)

    @contextmanager
    def counted(self, name: str, pieces: int = 1) -> Iterator[None]:
        """The CPU in here is for `pieces` pieces of `name`; the side's memory is looked at once a turn, at the end."""
        before = self._side.cpu()
        yield
        taken = self._taken(name)
        taken.cpu += self._side.cpu() - before
        taken.pieces += pieces
        if name not in self._weighed:
            self._weighed.add(name)
            taken.memory = max(taken.memory, self._side.memory())

    @contextmanager
    def timed(self, name: str, pieces: int = 1) -> Iterator[None]:
        """One value: the seconds that this block takes, for each of `pieces`; with its CPU."""
        with self.counted(name, pieces):
            started = time.perf_counter()
            yield
            elapsed = time.perf_counter() - started
        self.took(name, elapsed / pieces)


def order(sides: Sequence[T], rounds: int) -> Iterator[T]:
    """Each side once a round; who is first changes."""
    for number in range(rounds):
        yield from sides if number % 2 == 0 else reversed(sides)


def take_turns(
    sides: Sequence[S],
    rounds: int,
    work: Callable[[S, Turn], Coroutine[Any, Any, None] | None],
    *,
    within: float = 60,
) -> Found:
    """`work` for every side in every round, never two at a time.

    After `within` seconds no further round begins, except for the second: a
    slow machine gets fewer rounds, not a longer run.
    """
    found: Found = {}
    started = time.monotonic()
    for number, side in enumerate(order(sides, rounds)):
        late = time.monotonic() - started > within
        if late and number >= 2 * len(sides) and number % len(sides) == 0:
            break
        waiting = work(side, Turn(side, found))
        if waiting is not None:
            asyncio.run(waiting)
    return found


# -- CPU and memory -------------------------------------------------------------------------------------------


def have_memory(folder: Path, size: int) -> None:
    """Let the kernel have `size` bytes of free memory at hand, before a piece of work that fills the page cache.

    The host of a virtual machine may take free memory back; each page then costs six times as much to write to, once,
    and how many of them a piece of work meets depends on what ran before it, not on whose turn it is.
    """
    block = bytes(1 << 20)
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(0, size, len(block)):
            file.write(block)


class Account:
    """CPU and memory of a daemon and all it starts, by cgroups of its own.

    Processes that are put into the group `name`, and their children, are
    counted there; containers are counted below `parent`, the directory of the
    one cgroup tree in which the daemon makes theirs. Ended processes stay
    counted. Where neither cpuacct nor cgroup v2 is mounted, CPU is 0.
    """

    def __init__(self, name: str, parent: str) -> None:
        self._top = next(
            (top for top in (CGROUPS / "cpuacct", CGROUPS) if cpu_seconds(top) is not None), None
        )
        self._names = (name, parent)
        if self._top is not None:
            (self._top / name).mkdir(exist_ok=True)
            # With a child it outlives its containers, and so does what they used.
            (self._top / parent / "keep").mkdir(parents=True, exist_ok=True)

    def prefix(self) -> list[str]:
        """Words before a command that runs in the group."""
        if self._top is None:
            return []
        return ["sh", "-c", f'echo $$ > {self._top / self._names[0]}/cgroup.procs; exec "$0" "$@"']

    def adopt(self, pid: int) -> None:
        """`pid` and its descendants are counted from now on."""
        while self._top is not None and (strangers := set(family(pid)) - set(self.processes())):
            for stranger in strangers:
                try:
                    (self._top / self._names[0] / "cgroup.procs").write_text(str(stranger))
                except ProcessLookupError:
                    pass

    def processes(self) -> list[int]:
        """Daemon, zygote, shims: all but the containers' own."""
        if self._top is None:
            return []
        return [int(pid) for pid in (self._top / self._names[0] / "cgroup.procs").read_text().split()]

    def cpu(self) -> float:
        """Seconds; commands that this process ran and waited for are in it too."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = children.ru_utime + children.ru_stime
        if self._top is not None:
            used += sum(cpu_seconds(self._top / name) or 0 for name in self._names)
        return used

    def memory(self) -> int:
        """PSS in bytes of all `processes`."""
        return sum(Memory.of(pid).pss for pid in self.processes())

    def close(self) -> None:
        """The groups go when they are empty."""
        if self._top is not None:
            for folder in (self._names[0], f"{self._names[1]}/keep", self._names[1]):
                try:
                    (self._top / folder).rmdir()
                except OSError:
                    pass  # not empty, or its daemon removed it: who looks for leftovers will tell


def cpu_seconds(group: Path) -> float | None:
    """CPU seconds of a group and all below it, by cgroup v1 or v2; None if that isn't one."""
    try:
        return int((group / "cpuacct.usage").read_text()) / 1e9
    except OSError:
        pass
    try:
        return int((group / "cpu.stat").read_text().split()[1]) / 1e6
    except OSError:
        return None


@dataclass
class Memory:
    """Of one process: bytes of proportional and of private pages, and its threads."""

    pss: int = 0
    private: int = 0
    threads: int = 0

    @classmethod
    def of(cls, pid: int) -> Memory:
        """All 0 when it has just gone."""
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        except (FileNotFoundError, ProcessLookupError):
            return cls()
        sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in rollup.splitlines()[1:]}
        return cls(sizes["Pss:"], sizes["Private_Clean:"] + sizes["Private_Dirty:"], threads)


def family(pid: int) -> list[int]:
    """`pid` and its descendants."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(found for child in children for found in family(child))]


# -- commands -------------------------------------------------------------------------------------------------


class Program:
    """A side that is a command: `name`, and the words that it begins with."""

    def __init__(self, name: str, words: Sequence[str | Path], account: Account | None = None) -> None:
        self.name, self.words, self._account = name, [str(word) for word in words], account
        self._largest = 0

    def __call__(self, *words: str | Path, **options: Any) -> None:
        """Run it to its end; its output is dropped. Raises CalledProcessError unless its status is 0."""
        command = [*self.words, *map(str, words)]
        quiet = dict.fromkeys(("stdin", "stdout"), subprocess.DEVNULL)
        subprocess.run(command, check=True, **{**quiet, "stderr": subprocess.PIPE, **options})

    def cpu(self) -> float:
        if self._account is not None:
            return self._account.cpu()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def weigh(self, *words: str | Path) -> None:
        """Run it once more, and keep the largest RSS of its processes: an ended one has no PSS.

        Between us and it stands busybox, because the figure of a child begins with the memory of who forked it.
        """
        with tempfile.NamedTemporaryFile() as said:
            busybox = [str(goparts.path("busybox")), "time", "-f", "%M", "-o", said.name]
            Program(self.name, [*busybox, *self.words])(*words)
            # busybox takes the kernel's KiB for pages.
            self._largest = max(self._largest, int(said.read()) * 1024 * 1024 // os.sysconf("SC_PAGE_SIZE"))

    def memory(self) -> int:
        """In bytes: the PSS of its daemon if it has one, else what `weigh` found."""
        return self._account.memory() if self._account is not None else self._largest
