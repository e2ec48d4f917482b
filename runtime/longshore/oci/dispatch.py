"""The command line of the runtime: global flags, the table of verbs, and how they fail.

A verb is a module of this package with FLAGS, ARGUMENTS (least, most) and
``main(call) -> exit status``; `VERBS` names the module. Only the one asked for
is imported.
"""

from __future__ import annotations

import os
import sys

from longshore.oci import cli, log, rootless
from longshore.oci.cli import BOOL, VALUE
from longshore.oci.errors import RuntimeFailure, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GLOBAL_FLAGS = {
    "debug": BOOL,
    "log": VALUE,
    "log-format": VALUE,
    "root": VALUE,
    "criu": VALUE,
    "systemd-cgroup": BOOL,
    "rootless": VALUE,
    "help h": BOOL,
    "version v": BOOL,
}
DEFAULT_ROOT = "/run/longshore/runc"


def default_root() -> str:
    """Where the containers of this user are recorded."""
    mine = os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{mine}/longshore/runc" if mine and rootless.unprivileged() else DEFAULT_ROOT


# verb: (whether it enters a container, prefix of its errors, exit status of its errors); the module is named like it.
VERBS = {
    "checkpoint": (False, "", 1),
    "create": (True, "runc create failed: ", 1),
    "delete": (False, "", 1),
    "events": (False, "", 1),
    "exec": (True, "exec failed: ", 255),
    "features": (False, "", 1),
    "kill": (False, "", 1),
    "list": (False, "", 1),
    "pause": (False, "", 1),
    "ps": (False, "", 1),
    "restore": (False, "", 1),
    "resume": (False, "", 1),
    "run": (True, "runc run failed: ", 1),
    "spec": (False, "", 1),
    "start": (False, "", 1),
    "state": (False, "", 1),
    "update": (False, "", 1),
}


def main() -> int:
    """Run the command in sys.argv; the exit status."""
    try:
        values, rest = cli.parse(sys.argv[1:], GLOBAL_FLAGS)
    except cli.UsageError as error:
        return _report("", str(error), 1)
    given = cli.Call("", False, values, rest)
    if given.on("version"):
        return _version()
    if given.on("help") or not rest or rest[0] in ("help", "h"):
        sys.stdout.write(_usage())
        return 0
    form = given.value("log-format", "text")
    if form not in ("text", "json"):
        return _report("", f"invalid log-format: {form}", 1)
    log.use(log.Log(given.value("log"), form, given.on("debug")))
    rootless.choose(given.value("rootless"))
    return _run(rest[0], rest[1:], given)


def _run(verb: str, words: list[str], given: cli.Call) -> int:
    if verb not in VERBS:
        return _report(given.value("log"), f"No help topic for '{verb}'", 3)
    enters, prefix, status = VERBS[verb]
    try:
        if enters:
            # Done already when `longshore.oci.main` was the way in.
            from longshore.linux import seal

            seal.ensure()
        module = _import(verb)
        values, arguments = cli.parse(words, {**module.FLAGS, "help h": BOOL})
        root = os.path.abspath(given.value("root", default_root()))
        call = cli.Call(root, given.on("systemd-cgroup"), values, arguments, given.value("criu"))
        if call.on("help"):
            sys.stdout.write(
                f"usage: runc {verb} [options] ...\noptions: {_flags(module.FLAGS)}\n{module.__doc__ or ''}\n"
            )
            return 0
        cli.expect(call, verb, *module.ARGUMENTS)
        result: int = module.main(call)
        return result
    except cli.UsageError as error:
        return _report(given.value("log"), str(error), 1)
    except RuntimeFailure as error:
        return _report(given.value("log"), prefix + str(error), status)
    except OSError as error:
        return _report(given.value("log"), prefix + explain(error), status)
    except Exception as error:
        if given.on("debug"):
            raise
        return _report(given.value("log"), f"{prefix}internal error: {explain(error)}", status)


def _import(verb: str) -> Any:
    return __import__(f"longshore.oci.{verb}", fromlist=["main"])


def _report(log_path: str, message: str, status: int) -> int:
    log.write("error", message)
    if log_path:
        # Who reads a log file may also show standard error: the message must not be lost to either.
        os.write(2, log.encoded(message) + b"\n")
    return status


def _flags(flags: dict[str, str]) -> str:
    words = []
    for names, kind in flags.items():
        shown = ", ".join(f"--{name}" if len(name) > 1 else f"-{name}" for name in names.split())
        words.append(shown if kind == BOOL else f"{shown} VALUE")
    return "  ".join(words)


def _usage() -> str:
    return (
        "usage: runc [--root DIR] [--log FILE] [--log-format text|json] [--debug] VERB ...\n"
        f"verbs: {' '.join(VERBS)}\n"
        "runc VERB --help lists the options of a verb.\n"
    )


def _version() -> int:
    from longshore.oci.config import OCI_VERSION

    sys.stdout.write(
        f"runc version 1.2.0+longshore\ncommit: longshore\nspec: {OCI_VERSION}\npython: {sys.version.split()[0]}\n"
    )
    return 0
