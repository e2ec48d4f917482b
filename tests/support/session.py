"""A scripted session at a docker prompt: more than a hundred commands, run on any dockerd, and what they answered.

`SCRIPT` says how its lines are written. Answers are compared after `normal`
has taken out what can't be equal: ids, times, digests, random ports.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from support import goparts, images
from support.dockerd import AnyDockerd

SCRIPT = goparts.PROJECT / "tests" / "data" / "docker-session.txt"

CONTEXT = {
    "Dockerfile": """FROM base AS first
ARG GREETING=hello
ENV WORD=${GREETING} OTHER="two words"
RUN mkdir -p /made && echo "$WORD $OTHER" > /made/by-run
COPY file /made/copied
ADD packed.tar /made/

FROM base
LABEL one=1 two="2 words"
COPY --from=first --chown=1:2 /made /app
WORKDIR /app
USER 1:2
EXPOSE 80 53/udp
ENTRYPOINT ["cat"]
CMD ["by-run", "copied", "packed"]
""",
    "Broken": "FROM base\nNONSENSE x\n",
    "Failing": "FROM base\nRUN exit 7\n",
    "file": "from the context\n",
    ".dockerignore": "Broken\n",
}
FILES = {"env": "ONE=1\n# a comment\nTWO=two words\n", "shared/file": "shared\n"}


class Step(NamedTuple):
    """A line of the script."""

    number: int
    line: str
    words: tuple[str, ...]
    stdin: str | None
    filter: str

    @property
    def name(self) -> str:
        return f"{self.number:03}-{re.sub(r'[^a-z0-9]+', '-', self.line.lower())[:40].strip('-')}"


class Said(NamedTuple):
    """What a step answered, normalised."""

    status: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"status {self.status}\n{self.out}{self.err}"


def steps() -> Iterator[Step]:
    lines = (line for line in SCRIPT.read_text().splitlines() if line and not line.startswith("#"))
    for number, line in enumerate(lines, 1):
        typed, _, stdin = line.partition(" <<< ")
        command, bar, chosen = typed.rpartition(" | ")
        if not bar or not re.fullmatch(r"sort|status|last \d+", chosen):
            command, chosen = typed, ""
        yield Step(number, line, tuple(shlex.split(command)), stdin + "\n" if stdin else None, chosen)


def prepare(folder: Path) -> None:
    """The files that the script names."""
    (folder / "layer.tar").write_bytes(images.busybox_layer())
    for name, text in (FILES | {f"context/{name}": text for name, text in CONTEXT.items()}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with tarfile.open(folder / "context" / "packed.tar", "w") as tar:
        entry = tarfile.TarInfo("packed")
        entry.size = len(b"from a tar\n")
        tar.addfile(entry, io.BytesIO(b"from a tar\n"))


class Session:
    """One run of the script on a dockerd."""

    def __init__(self, docker: AnyDockerd, folder: Path) -> None:
        self._docker, self._folder = docker, folder
        self._mark = time.time()
        self._hung = 0

    def play(self, script: Iterable[Step]) -> dict[int, Said]:
        """Everything; a dockerd that hangs again and again isn't asked any more."""
        prepare(self._folder)
        return {
            step.number: self.say(step) if self._hung < 5 else Said(125, "", "given up\n") for step in script
        }

    def say(self, step: Step) -> Said:
        words = [self._fill(word) for word in step.words]
        program, words = (words[0], words[1:]) if words[0].startswith("@") else ("", words)
        if program == "@mark":
            self._mark = time.time()
            return Said(0, "", "")
        if program == "@wait-for":
            return self._wait_for(words, (step.stdin or "").strip())
        if program == "@tar-has":
            return tar_has(Path(words[0]), words[1:])
        command = [program[1:], *words] if program else [str(self._docker.cli), *words]
        done = self._run(command, bool(program), step.stdin)
        return filtered(
            Said(done.returncode, self._normal(done.stdout), self._normal(done.stderr)), step.filter
        )

    def _fill(self, word: str) -> str:
        known = {"tmp": self._folder, "mark": f"{self._mark:.3f}", "now": f"{time.time():.3f}"}
        known |= {"docker": self._docker.cli, "busybox": self._docker.busybox}
        return re.sub(r"\{(tmp|mark|now|docker|busybox)\}", lambda found: str(known[found[1]]), word)

    def _run(self, command: list[str], inside: bool, stdin: str | None) -> subprocess.CompletedProcess[str]:
        given = {"input": stdin} if stdin is not None else {}
        environment = self._docker.environment() | {"DOCKER_BUILDKIT": "0", "DOCKER_API_VERSION": "1.41"}
        options = {"errors": "replace", "env": environment, "cwd": self._folder}
        try:
            return self._docker.call(command, check=False, inside=inside, timeout=60, **given, **options)
        except subprocess.TimeoutExpired:
            self._hung += 1
            return subprocess.CompletedProcess(command, 124, "", "it did not end in 60 s\n")

    def _wait_for(self, command: list[str], wanted: str) -> Said:
        """The command again and again until it says `wanted`: how long that takes is no matter."""
        deadline = time.monotonic() + 60
        while True:
            done = self._run(command, True, None)
            if wanted in (done.stdout + done.stderr).split() or time.monotonic() > deadline:
                return Said(
                    0, "" if wanted in (done.stdout + done.stderr).split() else f"never {wanted}\n", ""
                )

    def _normal(self, text: str) -> str:
        return normal(text.replace(str(self._folder), "<tmp>").replace(self._docker.cgroup, "<cgroup>"))


def tar_has(file: Path, names: list[str]) -> Said:
    with tarfile.open(file) as tar:
        missing = set(names) - {name.removeprefix("./") for name in tar.getnames()}
    return Said(int(bool(missing)), "", f"lacks {sorted(missing)}\n" if missing else "")


RULES = (
    (r"\x1b\[[0-9;?]*[A-Za-z]", ""),
    (r"sha256:[0-9a-f]{64}", "<digest>"),
    (r"\b[0-9a-f]{64}\b", "<id64>"),
    (r"\b[0-9a-f]{12}\b", "<id>"),  # of digits alone now and then
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| ?[+-]\d\d:?\d\d)?( [A-Z]{3})?", "<time>"),
    (r"\b(about )?(an?|\d+|less than a) (second|minute|hour)s?( ago)?", "<duration>"),
    (r"\b(4915\d|3[2-5]\d{3})\b", "<port>"),
    (r"(?m)^(\S+) +\d+ +\d+ +\d+ +\d\d:\d\d(:\d\d)?", r"\1 <pid> <pid> <percent> <clock>"),
    (r"(?<![:\w])\d\d:\d\d(:\d\d)?(?![:\w])", "<clock>"),
    (r"(?m)^\d+ +(?=\S+$)", "<number> "),
    (r" ?(dir|file|multi):[0-9a-f]{2,}\S*", r" \1:<sum>"),
    (r"[ \t]+", " "),
    (r" +\n", "\n"),
)


def normal(text: str) -> str:
    """`text` without what differs between two runs on the same machine."""
    for pattern, instead in RULES:
        text = re.sub(pattern, instead, text)
    return text


def filtered(said: Said, chosen: str) -> Said:
    if chosen == "status":
        return Said(said.status, "", "")
    if chosen == "sort":
        return said._replace(out="".join(sorted(said.out.splitlines(keepends=True))))
    if chosen:
        count = int(chosen.split()[1])
        return said._replace(out="".join(said.out.splitlines(keepends=True)[-count:]))
    return said


def which_cli() -> Path | None:
    """The machine's own docker CLI where it has one, which is newer than Debian's; None for Debian's."""
    installed = Path("/usr/local/bin/docker")
    return installed if os.access(installed, os.X_OK) else None
