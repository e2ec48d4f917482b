"""Every command of ctr, in an order in which they can be run one after the other on one daemon.

A row is a command line with holes, and what it must answer. The same rows run
with our ctr on both daemons and with Debian's ctr on both: that Debian's on
Debian's passes proves the rows. ``python -m support.ctrtable`` prints which
commands which ctr has.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from support import goparts
from support.daemon import LONGSHORE

OURS, DEBIANS = "ours", "debian's"


class Row(NamedTuple):
    """`says` is searched for in standard output; its named groups fill later rows' holes.

    `by` says which ctr has the command (the original's newer ones are missing in Debian's 1.6), `on` which
    daemon can serve it. `reach` marks what speaks to a registry, which Debian's ctr in its private host can't.
    """

    words: str
    says: str = ""
    status: int = 0
    input: str = ""
    by: tuple[str, ...] = (OURS, DEBIANS)
    on: tuple[str, ...] = ("longshore", "real")
    reach: bool = False


ONLY_OURS = (OURS,)

ROWS = (
    Row("version", r"Server:\n +Version:"),
    Row("info", '"uuid"', by=ONLY_OURS),
    Row("deprecations ls", "MESSAGE", by=ONLY_OURS),
    Row("plugins ls", "io.containerd.snapshotter.v1 +overlayfs"),
    Row("plugins ls -d", "Exports:"),
    Row("plugins inspect-runtime", '"name"', by=ONLY_OURS, on=("longshore",)),
    Row("oci spec", '"ociVersion"'),
    # namespaces
    Row("namespaces create {ns}-x a=b"),
    Row("namespaces label {ns}-x c=d"),
    Row("namespaces ls", "{ns}-x +a=b,c=d"),
    Row("namespaces rm {ns}-x"),
    # images
    Row("images import {archive}", r"unpacking {box} \((?P<digest>sha256:\w+)\)\.\.\.done"),
    Row("images ls", r"{box} +application/vnd.oci.image.manifest.v1\+json +{digest} +\S+ [KM]iB +linux/"),
    Row("images ls -q", "{box}"),
    Row("images check", r"{box} .*complete \(2/2\) .* true"),
    Row("images label {box} color=red", "color=red"),
    Row("images tag {box} example.org/other:1", "example.org/other:1"),
    Row("images inspect --content {box}", '"architecture"', by=ONLY_OURS),
    Row("images usage {box}", r"sha256:\w+ +sha256:\w+ +\S+ [KM]iB +\d+", by=ONLY_OURS),
    Row("images unpack {box}", "sha256:", by=ONLY_OURS),
    Row("images convert --uncompress {box} example.org/plain:1", "sha256:"),
    Row("images export {out} {box}"),
    Row("images push --plain-http {registry}/box:1 {box}", reach=True),
    Row("images pull --plain-http {registry}/box:1", reach=True),
    Row("images rm example.org/other:1 example.org/plain:1", "example.org/other:1"),
    Row("images mount {box} {folder}", "{folder}"),
    Row("images unmount --rm {folder}", "{folder}"),
    # content
    Row("content ls", r"{digest}\s+\S+B\s+\S+"),
    Row("content get {digest}", "tar.gzip"),
    Row("content label {digest} color=red", "color=red"),
    Row("content ingest {ns}-ref", input="{ns} blob"),
    Row("content active", "REF"),
    Row("content edit --editor 'cp {note}' {digest}", "sha256:"),
    Row("content fetch --plain-http {registry}/box:1", reach=True),
    Row("content fetch --plain-http --metadata-only {registry}/box:1", reach=True),
    Row("content fetch-object --plain-http {registry}/box:1 {digest}", "schemaVersion", reach=True),
    Row("content fetch-blob --plain-http {registry}/box:1 {config}", "diff_ids", by=ONLY_OURS, reach=True),
    Row("content push-object --plain-http {registry}/{ns}:2 {config} {type}", reach=True),
    Row(
        "content prune references --dry",
    ),
    # snapshots
    Row("snapshots ls", r"(?P<top>sha256:\w+) +Committed"),
    Row("snapshots unpack {digest}"),
    Row("snapshots prepare -t /mnt {ns}-s {top}", "^mount -t overlay overlay /mnt -o "),
    Row("snapshots mounts /mnt {ns}-s", "^mount -t overlay overlay /mnt -o "),
    Row("snapshots info {ns}-s", '"Kind": "Active"'),
    Row("snapshots usage {ns}-s", r"{ns}-s +\S+ \w+ +\d+"),
    Row("snapshots tree", r"\\_ {ns}-s"),
    Row("snapshots diff {ns}-s"),
    Row("snapshots commit {ns}-c {ns}-s"),
    Row("snapshots label {ns}-c color=red"),
    Row("snapshots view {ns}-v {ns}-c"),
    Row("snapshots rm {ns}-v"),
    Row("snapshots rm {ns}-c"),
    # leases
    Row("leases create --id {ns}-l -x 1h a=b", "{ns}-l"),
    Row("leases ls", r"{ns}-l +\S+ +a=b"),
    Row("leases resources {ns}-l", "TYPE", by=ONLY_OURS),
    Row("leases rm --sync {ns}-l", "{ns}-l"),
    # containers and tasks
    Row("run --rm {box} {ns}-r sh -c 'echo out; exit 3'", "^out$", status=3),
    Row("run --rm --seccomp {box} {ns}-r mount -t tmpfs t /tmp", status=1),
    Row("run --rm --privileged {box} {ns}-r grep -c ' /sys sysfs rw' /proc/mounts", "1"),
    Row("run -d {box} {ns}-1 sleep 1000"),
    Row("containers ls", "{ns}-1 +{box} +io.containerd.runc.v2"),
    Row("containers info {ns}-1", '"SnapshotKey": "{ns}-1"'),
    Row("containers label {ns}-1 color=red", "color=red"),
    Row("tasks ls", r"{ns}-1 +\d+ +RUNNING"),
    Row("tasks ps {ns}-1", r"^\d+ +-"),
    Row("tasks exec --exec-id e1 {ns}-1 sh -c 'cat; exit 5'", "^word$", status=5, input="word\n"),
    Row("tasks metrics {ns}-1", "pids.current"),
    Row("tasks pause {ns}-1"),
    Row("tasks ls", r"{ns}-1 +\d+ +PAUSED"),
    Row("tasks resume {ns}-1"),
    Row("tasks kill -s KILL {ns}-1"),
    Row("tasks rm -f {ns}-1"),
    Row("containers rm {ns}-1"),
    Row("containers create {box} {ns}-2 dd count=1"),
    Row("tasks start -d {ns}-2"),
    Row("tasks attach {ns}-2", "^this$", input="this\n", by=ONLY_OURS),
    # When the task ends, Debian's stops reading at once: the line may be lost, whichever daemon it is.
    Row("tasks attach {ns}-2", input="this\n", by=(DEBIANS,)),
    Row("containers rm {ns}-2"),
    # and away with it
    Row("content rm {digest}", "{digest}"),
    Row("images prune --all", "{box}", by=ONLY_OURS),
    Row("images rm --sync {box}", by=(DEBIANS,)),
)

# What no row can run, and where it is tested or why it isn't there.
ELSEWHERE = {
    "events": "test_events, beside: it doesn't end",
    "containers checkpoint": "test_interop_checkpoints.py: it takes a criu",
    "containers restore": "the same file",
    "tasks checkpoint": "the same file",
    "install": "not built",
    "pprof": "not built",
    "shim": "not built",
    "sandboxes": "not built",
}

_LONG = {"ls": "list", "rm": "delete"}


def named(row: Row) -> str:
    """The command of a row by its full name: ``images list``."""
    words = row.words.split()
    if words[0] in ("version", "info", "run"):
        return words[0]
    verb = words[1]
    if words[:2] == ["content", "prune"]:
        return "content prune references"
    if words[0] == "namespaces" and verb == "rm":
        return "namespaces remove"
    return f"{words[0]} {_LONG.get(verb, verb)}"


def our_commands() -> Iterator[str]:
    """Every command of our ctr."""
    import click

    from longshore.ctr.main import cli

    def walk(group: click.Group, path: str) -> Iterator[str]:
        context = click.Context(group)
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            if isinstance(found, click.Group):
                yield from walk(found, f"{path}{name} ")
            else:
                yield f"{path}{name}"

    yield from walk(cli, "")


def debians_commands() -> Iterator[str]:
    """Every command of Debian's ctr, from its help."""

    def walk(path: list[str]) -> Iterator[str]:
        text = subprocess.run(
            [goparts.path("ctr"), *path, "--help"], capture_output=True, text=True, check=True
        ).stdout
        listing = re.search(r"^COMMANDS:\n(.*?)^(?:GLOBAL )?OPTIONS:", text, re.DOTALL | re.MULTILINE)
        if listing is None:
            yield " ".join(path)
            return
        for line in listing[1].splitlines():
            name = line.split(",")[0].split()
            if name and name[0] not in ("help", "flags"):
                yield from walk([*path, name[0]])

    yield from walk([])


def debians_flags(command: str) -> set[str]:
    """The flags of a command of Debian's ctr, from its help."""
    text = subprocess.run(
        [goparts.path("ctr"), *command.split(), "--help"], capture_output=True, text=True, check=True
    ).stdout
    listing = text.rpartition("OPTIONS:\n")[2] if "OPTIONS:\n" in text else ""
    found = {
        flag for line in listing.splitlines() for flag in re.findall(r"(?:^   |, )(--?[\w-]+)", line[:60])
    }
    return found - {"--help", "-h"}


def our_flags(command: str) -> set[str]:
    """Those of a command of ours, also the hidden ones, which say that they aren't built."""
    import click

    from longshore.ctr.main import cli

    found: click.Command = cli
    for word in command.split():
        assert isinstance(found, click.Group)
        below = found.get_command(click.Context(found), word)
        assert below is not None, command
        found = below
    options = [option for option in found.params if isinstance(option, click.Option)]
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


class Session:
    """The rows, run in order by one ctr on one daemon. `call` runs words and answers the finished process."""

    def __init__(
        self, call: Callable[..., subprocess.CompletedProcess[str]], holes: Mapping[str, str]
    ) -> None:
        self._call = call
        self._holes = dict(holes)

    def run(self, row: Row) -> str:
        """What is wrong, or ""."""
        words = [self._filled(word) for word in shlex.split(row.words)]
        options: dict[str, Any] = {"check": False, "errors": "replace"}  # `diff` prints an archive
        if row.input:
            options["input"] = self._filled(row.input)
        done = self._call(*words, **options)
        line = " ".join(words)
        if done.returncode != row.status:
            return f"{line}: status {done.returncode}\n{done.stdout[-500:]}{done.stderr[-500:]}"
        pattern = self._filled(row.says, re.escape)
        found = re.search(pattern, done.stdout, re.MULTILINE | re.DOTALL)
        if found is None:
            return f"{line}: no {pattern!r} in\n{done.stdout[-1000:]}{done.stderr[-500:]}"
        self._holes |= found.groupdict()
        return ""

    def _filled(self, text: str, quoted: Callable[[str], str] = str) -> str:
        """The text with ``{name}`` replaced; braces of regular expressions stay."""
        return re.sub(
            r"\{([a-z]+)\}",
            lambda hole: quoted(self._holes[hole[1]]) if hole[1] in self._holes else hole[0],
            text,
        )


def our_call(address: str, namespace: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Our ctr on a daemon."""

    def call(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [str(LONGSHORE), "ctr", "--address", address, "--namespace", namespace, *words]
        options = {"capture_output": True, "text": True, "timeout": 120} | options
        if "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        done: subprocess.CompletedProcess[str] = subprocess.run(command, **options)
        return done

    return call


def main() -> None:
    """The table in Markdown."""
    theirs = set(debians_commands())
    by = {ctr: {named(row) for row in ROWS if ctr in row.by} for ctr in (OURS, DEBIANS)}
    only = {named(row): row.on for row in ROWS if len(row.on) == 1}
    print("| command | ours on ours | ours on Debian's | Debian's on ours |\n|---|---|---|---|")
    for name in sorted({*our_commands(), *theirs}):
        elsewhere = ELSEWHERE.get(name, "not built") != "not built"
        ours = name in by[OURS] or elsewhere
        real = "not in 1.6" if only.get(name) == ("longshore",) else "yes" if ours else "-"
        debians = "not in 1.6" if name not in theirs else "yes" if name in by[DEBIANS] or elsewhere else "-"
        print(f"| {name} | {'yes' if ours else '-'} | {real} | {debians} |")


if __name__ == "__main__":
    main()
