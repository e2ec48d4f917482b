"""criu by its command line: the options of checkpoint and restore, and running it.

What criu must be told is a list of words, made by `checkpoint` and `restore`;
`Options` are the words that both take from their callers. criu keeps a log in
the work directory, which is named when it fails.
"""

from __future__ import annotations

import os

from longshore.linux import files
from longshore.oci.cli import BOOL, LIST, VALUE
from longshore.oci.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from longshore.oci.cli import Call

FLAGS = {
    "image-path": VALUE,
    "work-path": VALUE,
    "tcp-established": BOOL,
    "tcp-skip-in-flight": BOOL,
    "link-remap": BOOL,
    "ext-unix-sk": BOOL,
    "shell-job": BOOL,
    "lazy-pages": BOOL,
    "file-locks": BOOL,
    "manage-cgroups-mode": VALUE,
    "empty-ns": LIST,
    "auto-dedup": BOOL,
}
# Flags that criu knows by the same name.
_PASSED = (
    "tcp-established",
    "ext-unix-sk",
    "shell-job",
    "lazy-pages",
    "file-locks",
    "link-remap",
    "auto-dedup",
)
_RENAMED = {"tcp-skip-in-flight": "skip-in-flight"}
MODES = ("soft", "full", "strict", "ignore")
DESCRIPTORS = "descriptors.json"
NULL = "/dev/null"


class CriuFailed(RuntimeFailure):
    """criu ended with an error, or isn't there."""


class Options:
    """What a caller chooses; ``flags``: names of `_PASSED` and `_RENAMED`. Raises RuntimeFailure."""

    def __init__(
        self,
        image_path: str,
        work_path: str = "",
        *,
        flags: Sequence[str] = (),
        cgroups_mode: str = "",
        empty_namespaces: Sequence[str] = (),
        binary: str = "",
    ) -> None:
        self.image_path = os.path.abspath(image_path)
        self.work_path = os.path.abspath(work_path or image_path)
        self.binary = binary or "criu"
        if cgroups_mode and cgroups_mode not in MODES:
            raise RuntimeFailure("Invalid manage-cgroups-mode value")
        for name in empty_namespaces:
            if name != "network":
                raise RuntimeFailure(f"namespace {name!r} is not supported")
        self._mode = cgroups_mode or "soft"
        self._empty = bool(empty_namespaces)
        self._flags = tuple(flags)

    @classmethod
    def of(cls, call: Call, binary: str) -> Options:
        """From a command line."""
        return cls(
            call.value("image-path") or "checkpoint",
            call.value("work-path"),
            flags=[name for name in (*_PASSED, *_RENAMED) if call.on(name)],
            cgroups_mode=call.value("manage-cgroups-mode"),
            empty_namespaces=call.all("empty-ns"),
            binary=binary,
        )

    def words(self, log: str) -> list[str]:
        """The words common to dump and restore."""
        words = ["--images-dir", self.image_path, "--work-dir", self.work_path, "--log-file", log, "-v4"]
        words.append(f"--manage-cgroups={self._mode}")
        words += [f"--{_RENAMED.get(name, name)}" for name in self._flags]
        return words + (["--empty-ns", "net"] if self._empty else [])


def run(options: Options, verb: str, words: Sequence[str], start: Callable[[list[str]], int]) -> None:
    """Run ``criu verb``; ``start`` is given the whole command and makes the process. CriuFailed names the log."""
    log = "restore.log" if verb == "restore" else "dump.log"
    os.makedirs(options.work_path, 0o700, exist_ok=True)
    status = os.waitpid(start([options.binary, verb, *options.words(log), *words]), 0)[1]
    if status == 0:
        return
    how = (
        f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
    )
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 127:
        raise CriuFailed(f'exec: "{options.binary}": executable file not found in $PATH')
    raise CriuFailed(f"criu failed: {how}{_last_error(options, log)}\nlog file: {options.work_path}/{log}")


def _last_error(options: Options, log: str) -> str:
    try:
        lines = (
            files.read_bounded(f"{options.work_path}/{log}", 64 << 20).decode(errors="replace").splitlines()
        )
    except OSError:
        return ""
    errors = [line for line in lines if "Error" in line]
    return f": {errors[-1].strip()}" if errors else ""


def execute(command: list[str]) -> NoReturn:
    """Become criu; exit status 127 if it isn't there."""
    try:
        os.execvp(command[0], command)
    finally:
        os._exit(127)


def external_mounts(config: dict[str, Any]) -> list[tuple[str, str]]:
    """(destination, source) of mounts that criu shall not look into, but take from the host again."""
    found = []
    for entry in config.get("mounts") or ():
        if entry.get("type") == "bind" or {"bind", "rbind"} & set(entry.get("options") or ()):
            found.append(
                (os.path.normpath("/" + entry["destination"].lstrip("/")), entry.get("source") or "")
            )
    return found


def external_namespaces(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(criu's kind, path, label) of the namespaces that config.json joins by path and criu can leave alone."""
    kinds = {"network": "net", "pid": "pid"}
    return [
        (kinds[entry["type"]], entry["path"], f"ext{kinds[entry['type']].capitalize()}NS")
        for entry in (config.get("linux") or {}).get("namespaces") or ()
        if entry.get("path") and entry.get("type") in kinds
    ]
