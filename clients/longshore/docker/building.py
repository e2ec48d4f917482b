"""build: the context as an archive, without what .dockerignore names."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from longshore.docker import options, progress, show
from longshore.docker.api import Failure
from longshore.docker.app import App, confirmed, filters

REMOTE = ("http://", "https://", "git://", "github.com/", "git@")


@click.command()
@click.option("--add-host", multiple=True)
@click.option("--build-arg", multiple=True)
@click.option("--cache-from", multiple=True)
@click.option("--cgroup-parent", default="")
@click.option("--compress", is_flag=True)
@click.option("--cpu-period", type=int, default=0)
@click.option("--cpu-quota", type=int, default=0)
@click.option("--cpu-shares", "-c", type=int, default=0)
@click.option("--cpuset-cpus", default="")
@click.option("--cpuset-mems", default="")
@click.option("--disable-content-trust", is_flag=True)
@click.option("--file", "-f", "dockerfile", default="")
@click.option("--force-rm", is_flag=True)
@click.option("--iidfile", default="")
@click.option("--isolation", default="")
@click.option("--label", multiple=True)
@click.option("--memory", "-m", default="")
@click.option("--memory-swap", default="")
@click.option("--network", default="")
@click.option("--no-cache", is_flag=True)
@click.option("--platform", default="")
@click.option("--progress", "_progress", default="auto")
@click.option("--pull", is_flag=True)
@click.option("--quiet", "-q", is_flag=True)
@click.option("--rm", "remove", default=True, type=bool)
@click.option("--security-opt", multiple=True)
@click.option("--shm-size", default="")
@click.option("--squash", is_flag=True)
@click.option("--tag", "-t", "tags", multiple=True)
@click.option("--target", default="")
@click.option("--ulimit", multiple=True)
@click.argument("context")
@click.pass_obj
def build(app: App, /, context: str, quiet: bool, **given: Any) -> None:
    """Build an image from a Dockerfile."""
    query = _query(given, quiet)
    body: Any = None
    if context.startswith(REMOTE):
        query["remote"] = context
        query["dockerfile"] = given["dockerfile"] or None
    elif context == "-":
        body, query["dockerfile"] = _from_stdin(given["dockerfile"], say=not quiet)
    else:
        body, query["dockerfile"] = _from_folder(context, given["dockerfile"], say=not quiet)
    headers = {"Content-Type": "application/x-tar", **app.config.all_header()}
    answer = app.client.send("POST", "/build", query, body, headers)
    made: list[str] = []
    said: list[str] = []
    messages = app.client.lines(answer)
    if quiet:
        messages = (message for message in messages if said.append(message.get("stream", "")) or True)  # type: ignore[func-returns-value]
    progress.display(messages, lambda aux: made.append(aux.get("ID", "")), quiet=quiet)
    if quiet:
        click.echo("".join(said).strip() or (made[-1] if made else ""))
    if given["iidfile"] and made:
        Path(given["iidfile"]).write_text(made[-1])


def _query(given: dict[str, Any], quiet: bool) -> dict[str, Any]:
    args: dict[str, str | None] = {}
    for text in given["build_arg"]:
        name, equals, value = text.partition("=")
        args[name] = value if equals else os.environ.get(name)
    memory, swap = given["memory"], given["memory_swap"]
    return {
        "t": list(given["tags"]),
        "q": quiet,
        "nocache": given["no_cache"],
        "rm": "1" if given["remove"] else "0",
        "forcerm": given["force_rm"],
        "pull": given["pull"],
        "squash": given["squash"],
        "buildargs": args or None,
        "labels": options.pairs(given["label"]) or None,
        "cachefrom": json.dumps(list(given["cache_from"])) if given["cache_from"] else None,
        "extrahosts": list(given["add_host"]),
        "networkmode": given["network"] or None,
        "target": given["target"] or None,
        "platform": given["platform"] or None,
        "memory": options.size(memory) if memory else None,
        "memswap": options.size(swap) if swap else None,
        "shmsize": options.size(given["shm_size"]) if given["shm_size"] else None,
        "cpuperiod": given["cpu_period"] or None,
        "cpuquota": given["cpu_quota"] or None,
        "cpushares": given["cpu_shares"] or None,
        "cpusetcpus": given["cpuset_cpus"] or None,
        "cpusetmems": given["cpuset_mems"] or None,
        "cgroupparent": given["cgroup_parent"] or None,
    }


def _from_stdin(dockerfile: str, *, say: bool) -> tuple[Any, str | None]:
    """A Dockerfile, or an archive, which begins with a name or a compressor's magic."""
    data = sys.stdin.buffer.read()
    if (
        data[:2] == b"\x1f\x8b"
        or data[:3] == b"BZh"
        or data[257:262] == b"ustar"
        or data[:6] == b"\xfd7zXZ\0"
    ):
        return data, dockerfile or None
    return _archive([], {"Dockerfile": data}, say=say), None


def _from_folder(context: str, dockerfile: str, *, say: bool) -> tuple[Iterator[bytes], str]:
    root = Path(context)
    if not root.is_dir():
        raise Failure(f"unable to prepare context: path {json.dumps(context)} not found")
    extra: dict[str, bytes] = {}
    if dockerfile == "-":
        extra[".dockerfile.stdin"] = sys.stdin.buffer.read()
        name = ".dockerfile.stdin"
    else:
        name, extra = _dockerfile(root, dockerfile)
    ignore = Ignore.read(root, name)
    entries = [(path, inside) for path, inside in walk(root, ignore) if inside not in extra]
    keep = {name, ".dockerignore"}
    present = {inside for _, inside in entries}
    entries += [
        (root / kept, kept) for kept in keep - present if (root / kept).is_file() and kept not in extra
    ]
    return _archive(entries, extra, say=say), name


def _dockerfile(root: Path, given: str) -> tuple[str, dict[str, bytes]]:
    path = Path(given) if given else root / "Dockerfile"
    if not path.exists():
        raise Failure(
            "unable to prepare context: unable to evaluate symlinks in Dockerfile path: "
            f"lstat {path.absolute()}: no such file or directory"
        )
    try:
        return path.resolve().relative_to(root.resolve()).as_posix(), {}
    except ValueError:
        # Outside of the context: it travels under a name of its own.
        return ".dockerfile.outside", {".dockerfile.outside": path.read_bytes()}


def _archive(
    entries: list[tuple[Path, str]], extra: dict[str, bytes], *, say: bool = False
) -> Iterator[bytes]:
    buffer = io.BytesIO()
    sent = 0
    with tarfile.open(fileobj=buffer, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for path, inside in entries:
            info = tar.gettarinfo(str(path), inside)
            if info is None:
                continue
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            if info.isreg():
                with open(path, "rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
            sent += len(buffer.getvalue())
            yield from _drained(buffer)
        for name, data in extra.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    sent += len(buffer.getvalue())
    yield from _drained(buffer)
    if say:
        click.echo(f"Sending build context to Docker daemon  {show.size(sent, 4)}\n", nl=False)


def _drained(buffer: io.BytesIO) -> Iterator[bytes]:
    if data := buffer.getvalue():
        buffer.seek(0)
        buffer.truncate()
        yield data


class Ignore:
    """.dockerignore: the last pattern that matches a path or a folder of it decides; "!" takes back."""

    def __init__(self, lines: list[str]) -> None:
        self._rules: list[tuple[re.Pattern[str], bool]] = []
        for line in lines:
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            kept = text.startswith("!")
            pattern = os.path.normpath(text[kept:].strip()).strip("/")
            self._rules.append((re.compile(_expression(pattern)), kept))

    @classmethod
    def read(cls, root: Path, dockerfile: str) -> Ignore:
        for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
            if (root / name).is_file():
                return cls((root / name).read_text("utf-8-sig").splitlines())
        return cls([])

    def excludes(self, path: str) -> bool:
        parts = path.split("/")
        parents = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        excluded = False
        for pattern, kept in self._rules:
            if any(pattern.fullmatch(parent) for parent in parents):
                excluded = not kept
        return excluded

    @property
    def takes_back(self) -> bool:
        """Whether something below an excluded folder may be wanted all the same."""
        return any(kept for _, kept in self._rules)


def _expression(pattern: str) -> str:
    made = ""
    position = 0
    while position < len(pattern):
        rest = pattern[position:]
        if rest.startswith("**/"):
            made, position = made + "(.*/)?", position + 3
        elif rest.startswith("**"):
            made, position = made + ".*", position + 2
        elif rest[0] == "*":
            made, position = made + "[^/]*", position + 1
        elif rest[0] == "?":
            made, position = made + "[^/]", position + 1
        elif rest[0] == "[" and "]" in rest:
            end = rest.index("]") + 1
            made, position = made + rest[:end].replace("[^", "[^").replace("\\", "\\\\"), position + end
        else:
            made, position = made + re.escape(rest[0]), position + 1
    return made


def walk(root: Path, ignore: Ignore, below: str = "") -> Iterator[tuple[Path, str]]:
    """What belongs to the context, sorted."""
    for name in sorted(os.listdir(root / below)):
        inside = f"{below}/{name}" if below else name
        path = root / inside
        excluded = ignore.excludes(inside)
        if not excluded:
            yield path, inside
        if path.is_dir() and not path.is_symlink() and (not excluded or ignore.takes_back):
            yield from walk(root, ignore, inside)


@click.command()
@click.option("--all", "-a", "everything", is_flag=True)
@click.option("--filter", "chosen", multiple=True)
@click.option("--force", "-f", is_flag=True)
@click.pass_obj
def prune(app: App, /, everything: bool, chosen: tuple[str, ...], force: bool) -> None:
    """Remove build cache."""
    if confirmed("This will remove all dangling build cache.", force):
        found = app.client.post("/build/prune", {"all": everything, "filters": filters(chosen)})
        click.echo(f"Total reclaimed space: {show.size((found or {}).get('SpaceReclaimed', 0))}")
