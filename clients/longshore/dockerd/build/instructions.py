"""What each instruction says: a Dockerfile's lines as stages of commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from longshore.dockerd.build import durations
from longshore.dockerd.build.lines import Dockerfile, Line, ParseError

_STAGE_NAME: Final = re.compile(r"[a-z][a-z0-9\-_.]*")
_BUILDKIT: Final = (
    "the --{} option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/"
    " to learn how to build images with BuildKit enabled"
)

Pairs = tuple[tuple[str, str], ...]


class Env(NamedTuple):
    pairs: Pairs


class Label(NamedTuple):
    pairs: Pairs
    literal: bool = False
    """From `--label`: nothing in it is expanded."""


class Maintainer(NamedTuple):
    name: str


class Copy(NamedTuple):
    name: str
    """ADD or COPY."""
    sources: tuple[str, ...]
    target: str
    owner: str = ""
    mode: str = ""
    stage: str = ""
    """Of `--from`: the name or number of a stage, or an image."""


class Onbuild(NamedTuple):
    trigger: str


class Workdir(NamedTuple):
    path: str


class Run(NamedTuple):
    command: tuple[str, ...]
    shell: bool
    flags: tuple[str, ...] = ()


class Cmd(NamedTuple):
    command: tuple[str, ...]
    shell: bool


class Entrypoint(NamedTuple):
    command: tuple[str, ...]
    shell: bool


class Healthcheck(NamedTuple):
    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Expose(NamedTuple):
    ports: tuple[str, ...]


class User(NamedTuple):
    name: str


class Volume(NamedTuple):
    paths: tuple[str, ...]


class Stopsignal(NamedTuple):
    signal: str


class Arg(NamedTuple):
    pairs: tuple[tuple[str, str | None], ...]


class Shell(NamedTuple):
    command: tuple[str, ...]


Command = (
    Env | Label | Maintainer | Copy | Onbuild | Workdir | Run | Cmd | Entrypoint | Healthcheck | Expose | User
    | Volume | Stopsignal | Arg | Shell
)  # fmt: skip


class Step(NamedTuple):
    """`code` is how it is written, for people."""

    code: str
    command: Command


class Stage(NamedTuple):
    code: str
    base: str
    name: str
    platform: str
    steps: tuple[Step, ...]


class Plan(NamedTuple):
    """`arguments` are the ARGs before the first FROM."""

    arguments: tuple[Step, ...]
    stages: tuple[Stage, ...]

    @property
    def length(self) -> int:
        return len(self.arguments) + len(self.stages) + sum(len(stage.steps) for stage in self.stages)

    def until(self, target: str) -> Plan:
        """Without the stages after `target` (a name or number). Raises ParseError."""
        for place, stage in enumerate(self.stages):
            if target.lower() == stage.name or target == str(place):
                return self._replace(stages=self.stages[: place + 1])
        raise ParseError(f"failed to reach build target {target} in Dockerfile")

    def labelled(self, labels: Iterable[tuple[str, str]]) -> Plan:
        """With the labels of `--label` at the end of the last stage."""
        steps = tuple(Step(f"LABEL {key}={value}", Label(((key, value),), True)) for key, value in labels)
        if not steps or not self.stages:
            return self
        *others, last = self.stages
        return self._replace(stages=(*others, last._replace(steps=last.steps + steps)))


def plan(dockerfile: Dockerfile) -> Plan:
    """Raises ParseError with the line."""
    arguments: list[Step] = []
    stages: list[Stage] = []
    for line in dockerfile.lines:
        with_line = f"dockerfile parse error line {line.number}"
        try:
            if line.name == "from":
                stages.append(_from(line))
                continue
            step = command(line)
        except ValueError as error:
            raise ParseError(f"{with_line}: {error}") from None
        if stages:
            stages[-1] = stages[-1]._replace(steps=(*stages[-1].steps, step))
        elif isinstance(step.command, Arg):
            arguments.append(step)
        else:
            raise ParseError("no build stage in current context")
    return Plan(tuple(arguments), tuple(stages))


def command(line: Line) -> Step:
    """One instruction that isn't FROM. Raises ValueError."""
    if line.name not in _PARSERS:
        raise ValueError(f"unknown instruction: {line.original.split()[0]}")
    return Step(line.original.strip(), _PARSERS[line.name](line))


def _from(line: Line) -> Stage:
    words = line.arguments
    name = ""
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not _STAGE_NAME.fullmatch(name):
            raise ValueError(
                f'invalid name for build stage: "{words[2]}", name can\'t start with a number or contain symbols'
            )
    elif len(words) != 1:
        raise ValueError("FROM requires either one or three arguments")
    flags = _flags(line, ("platform",))
    return Stage(line.original.strip(), words[0], name, flags.get("platform", ""), ())


def _flags(line: Line, known: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in line.flags:
        name, equals, value = word.removeprefix("--").partition("=")
        if name not in known:
            raise ValueError(f"unknown flag: {name}")
        if name in found:
            raise ValueError(f"duplicate flag specified: {name}")
        if not equals:
            raise ValueError(f"missing a value on flag: {name}")
        found[name] = value
    return found


def _some(line: Line) -> tuple[str, ...]:
    _flags(line, ())
    if not line.arguments:
        raise ValueError(f"{line.name.upper()} requires at least one argument")
    return line.arguments


def _one(line: Line) -> str:
    _flags(line, ())
    if len(line.arguments) != 1:
        raise ValueError(f"{line.name.upper()} requires exactly one argument")
    return line.arguments[0]


def _pairs(line: Line) -> Pairs:
    words = _some(line)
    found = tuple(zip(words[::3], words[1::3], strict=True))
    if any(not key for key, _ in found):
        raise ValueError(f"{line.name.upper()} names can not be blank")
    return found


def _copy(line: Line) -> Copy:
    name = line.name.upper()
    if len(line.arguments) < 2:
        raise ValueError(
            f"{name} requires at least two arguments, but only one was provided."
            " Destination could not be determined"
        )
    _refuse_buildkit(line, ("link", "parents", "exclude", "keep-git-dir", "checksum", "unpack"))
    flags = _flags(line, ("chown", "chmod", *(("from",) if name == "COPY" else ())))
    *sources, target = line.arguments
    return Copy(
        name,
        tuple(sources),
        target,
        flags.get("chown", ""),
        flags.get("chmod", ""),
        flags.get("from", ""),
    )


def _refuse_buildkit(line: Line, names: Sequence[str]) -> None:
    for word in line.flags:
        name = word.removeprefix("--").partition("=")[0]
        if name in names:
            raise ValueError(_BUILDKIT.format(name))


def _onbuild(line: Line) -> Onbuild:
    trigger = _some(line)[0].upper()
    if trigger == "ONBUILD":
        raise ValueError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise ValueError(f"{trigger} isn't allowed as an ONBUILD trigger")
    return Onbuild(re.sub(r"(?i)^\s*ONBUILD\s*", "", line.original))


def _shell_form(line: Line, kind: Callable[..., Any]) -> Any:
    _flags(line, ())
    return kind(line.arguments, not line.json)


def _run(line: Line) -> Run:
    known = ("mount", "network", "security", "device")
    for word in line.flags:
        name = word.removeprefix("--").partition("=")[0]
        if name not in known:
            raise ValueError(f"unknown flag: {name}")
    flags = tuple(word.removeprefix("--").partition("=")[0] for word in line.flags)
    return Run(line.arguments, not line.json, flags)


def refuse_flags(run: Run) -> None:
    """Raises ParseError: this builder's RUN has none."""
    if run.flags:
        raise ParseError(_BUILDKIT.format(run.flags[0]))


_INTERVALS: Final = ("interval", "timeout", "start-period", "start-interval")


def _healthcheck(line: Line) -> Healthcheck:
    if not line.arguments:
        raise ValueError("HEALTHCHECK requires at least one argument")
    kind, *words = line.arguments
    if kind.upper() == "NONE":
        if words:
            raise ValueError("HEALTHCHECK NONE takes no arguments")
        return Healthcheck(("NONE",))
    flags = _flags(line, (*_INTERVALS, "retries"))
    if kind.upper() != "CMD":
        raise ValueError(f"Unknown type {json.dumps(kind.upper())} in HEALTHCHECK (try CMD)")
    if not words:
        raise ValueError("Missing command after HEALTHCHECK CMD")
    test = ("CMD" if line.json else "CMD-SHELL", *words)
    times = [_interval(name, flags.get(name, "")) for name in _INTERVALS]
    return Healthcheck(test, times[0], times[1], times[2], times[3], _retries(flags))


def _interval(name: str, text: str) -> int:
    found = durations.nanoseconds(text) if text else 0
    if found and found < durations.MILLISECOND:
        raise ValueError(f'Interval "{name}" cannot be less than 1ms')
    return found


def _retries(flags: dict[str, str]) -> int:
    text = flags.get("retries", "0")
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    if int(text) < 0:
        raise ValueError(f"--retries cannot be negative ({int(text)})")
    return int(text)


def _volume(line: Line) -> Volume:
    paths = tuple(path.strip() for path in _some(line))
    if "" in paths:
        raise ValueError("VOLUME specified can not be an empty string")
    return Volume(paths)


def _arg(line: Line) -> Arg:
    found: list[tuple[str, str | None]] = []
    for word in _some(line):
        key, equals, value = word.partition("=")
        if not key:
            raise ValueError("ARG names can not be blank")
        found.append((key, value if equals else None))
    return Arg(tuple(found))


def _shell(line: Line) -> Shell:
    words = _some(line)
    if not line.json:
        raise ValueError(f"SHELL requires the arguments to be in JSON form: {line.original}")
    return Shell(words)


_PARSERS: Final[dict[str, Callable[[Line], Command]]] = {
    "add": _copy,
    "arg": _arg,
    "cmd": lambda line: _shell_form(line, Cmd),
    "copy": _copy,
    "entrypoint": lambda line: _shell_form(line, Entrypoint),
    "env": lambda line: Env(_pairs(line)),
    "expose": lambda line: Expose(tuple(sorted(_some(line)))),
    "healthcheck": _healthcheck,
    "label": lambda line: Label(_pairs(line)),
    "maintainer": lambda line: Maintainer(_one(line)),
    "onbuild": _onbuild,
    "run": _run,
    "shell": _shell,
    "stopsignal": lambda line: Stopsignal(_one(line)),
    "user": lambda line: User(_one(line)),
    "volume": _volume,
    "workdir": lambda line: Workdir(_one(line)),
}
