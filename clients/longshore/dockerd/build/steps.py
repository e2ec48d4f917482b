"""What each instruction does to a stage. Only RUN makes a container, only RUN, COPY, ADD and WORKDIR a layer."""

from __future__ import annotations

import asyncio
import json
import posixpath
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from longshore.api.errors import InvalidArgument
from longshore.dockerd.backend import signals
from longshore.dockerd.build import configs, context, copying, durations, ports, running
from longshore.dockerd.build import instructions as said
from longshore.dockerd.build.stages import Stage
from longshore.dockerd.errors import ServerError
from longshore.dockerd.records import HealthConfig


async def perform(stage: Stage, command: said.Command) -> None:
    """One step: afterwards `stage.image` is its image."""
    stage.config.image = stage.id
    await _STEPS[type(command)](stage, command)


async def _commit(stage: Stage, remark: str) -> None:
    """A step that only changed the configuration."""
    if not stage.begun:
        raise ServerError("Please provide a source image with `from` prior to commit")
    done = configs.commented(stage.config, remark)
    if await stage.hit(done):
        return
    await _made(stage, lambda: stage.make(done))


async def _made(stage: Stage, make: Callable[[], Awaitable[None]]) -> None:
    id = secrets.token_hex(32)
    await running.seem_to_run(stage.work, id)
    await make()
    await running.seem_removed(stage.work, id)


async def _env(stage: Stage, step: said.Env) -> None:
    expander = stage.expander
    remark = "ENV"
    for key, value in step.pairs:
        name, content = expander.word(key), expander.word(value)
        configs.set_variable(stage.config, name, content)
        remark += f" {name}={content}"
    await _commit(stage, remark)


async def _label(stage: Stage, step: said.Label) -> None:
    expander = stage.expander
    labels = stage.config.labels = dict(stage.config.labels or {})
    remark = "LABEL"
    for key, value in step.pairs:
        if not step.literal:
            key, value = expander.word(key), expander.word(value)
        labels[key] = value
        remark += f" {key}={value}"
    await _commit(stage, remark)


async def _maintainer(stage: Stage, step: said.Maintainer) -> None:
    stage.author = step.name
    await _commit(stage, f"MAINTAINER {step.name}")


async def _onbuild(stage: Stage, step: said.Onbuild) -> None:
    stage.config.on_build = [*(stage.config.on_build or ()), step.trigger]
    await _commit(stage, f"ONBUILD {step.trigger}")


async def _workdir(stage: Stage, step: said.Workdir) -> None:
    path = stage.expander.word(step.path)
    if not path:
        raise InvalidArgument("cannot normalize nothing")
    whole = posixpath.normpath(posixpath.join("/", stage.config.working_dir, path))
    stage.config.working_dir = "/" + whole.lstrip("/")
    done = configs.commented(stage.config, f"WORKDIR {stage.config.working_dir}", apart=False)
    if await stage.hit(done):
        return

    async def make() -> None:
        work = stage.work
        scratch = await asyncio.to_thread(work.new_folder, "target")
        async with work.snapshot(stage.image) as (key, target):
            arguments = {"target": target, "scratch": scratch, "path": stage.config.working_dir}
            made = await context.refusing(work.zygote, "make_folder", arguments)
            await stage.make(done, key if made else "")

    await _made(stage, make)


def _command(stage: Stage, words: Sequence[str], shell: bool) -> list[str]:
    return [*configs.shell(stage.config), *words] if shell else list(words)


def _quoted(words: Sequence[str]) -> str:
    return "[" + " ".join(json.dumps(word, ensure_ascii=False) for word in words) + "]"


async def _cmd(stage: Stage, step: said.Cmd) -> None:
    stage.config.cmd = _command(stage, step.command, step.shell)
    await _commit(stage, f"CMD {_quoted(stage.config.cmd)}")
    stage.has_command = stage.has_command or bool(step.command)


async def _entrypoint(stage: Stage, step: said.Entrypoint) -> None:
    nothing = step.shell and not step.command
    stage.config.entrypoint = None if nothing else _command(stage, step.command, step.shell)
    if not stage.has_command:
        stage.config.cmd = None
    await _commit(stage, f"ENTRYPOINT {_quoted(stage.config.entrypoint or ())}")


async def _healthcheck(stage: Stage, step: said.Healthcheck) -> None:
    old = stage.config.healthcheck
    if old is not None and old.test and old.test[0] != "NONE":
        await stage.work.output.say(f"Note: overriding previous HEALTHCHECK: [{' '.join(old.test)}]\n")
    stage.config.healthcheck = HealthConfig(
        test=list(step.test),
        interval=step.interval,
        timeout=step.timeout,
        start_period=step.start_period,
        start_interval=step.start_interval,
        retries=step.retries,
    )
    times = " ".join(f'"{durations.text(time)}"' for time in (step.interval, step.timeout, step.start_period))
    # The number as Go's %q has it: a character.
    retries = json.dumps(chr(step.retries))[1:-1].replace("\\u00", "\\x")
    await _commit(stage, f"HEALTHCHECK &{{{_quoted(step.test)} {times} '{retries}'}}")


async def _expose(stage: Stage, step: said.Expose) -> None:
    expander = stage.expander
    words = [word for port in step.ports for word in expander.words(port)]
    exposed = dict(stage.config.exposed_ports or {})
    exposed.update({port: {} for port in ports.exposed(words)})
    stage.config.exposed_ports = exposed
    await _commit(stage, f"EXPOSE {' '.join(words)}")


async def _user(stage: Stage, step: said.User) -> None:
    stage.config.user = stage.expander.word(step.name)
    await _commit(stage, f"USER {stage.config.user}")


async def _volume(stage: Stage, step: said.Volume) -> None:
    expander = stage.expander
    paths = [expander.word(path) for path in step.paths]
    if "" in paths:
        raise InvalidArgument("VOLUME specified can not be an empty string")
    volumes = dict(stage.config.volumes or {})
    volumes.update({path: {} for path in paths})
    stage.config.volumes = volumes
    await _commit(stage, f"VOLUME [{' '.join(paths)}]")


async def _stopsignal(stage: Stage, step: said.Stopsignal) -> None:
    text = stage.expander.word(step.signal)
    signals.number(text)
    stage.config.stop_signal = text
    await _commit(stage, f"STOPSIGNAL {text}")


async def _arg(stage: Stage, step: said.Arg) -> None:
    expander = stage.expander
    words = []
    for key, value in step.pairs:
        name = expander.word(key)
        default = None if value is None else expander.word(value)
        stage.arguments.declare(name, default)
        words.append(name if default is None else f"{name}={default}")
    await _commit(stage, f"ARG {' '.join(words)}")


async def _shell(stage: Stage, step: said.Shell) -> None:
    stage.config.shell = list(step.command)
    await _commit(stage, f"SHELL [{' '.join(step.command)}]")


_STEPS: Final[dict[type, Callable[[Stage, Any], Awaitable[None]]]] = {
    said.Arg: _arg,
    said.Cmd: _cmd,
    said.Copy: copying.copy,
    said.Entrypoint: _entrypoint,
    said.Env: _env,
    said.Expose: _expose,
    said.Healthcheck: _healthcheck,
    said.Label: _label,
    said.Maintainer: _maintainer,
    said.Onbuild: _onbuild,
    said.Run: running.run,
    said.Shell: _shell,
    said.Stopsignal: _stopsignal,
    said.User: _user,
    said.Volume: _volume,
    said.Workdir: _workdir,
}
