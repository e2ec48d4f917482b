"""``longshore link DIR``: launchers under the original names.

    longshore link /usr/local/lib/longshore/bin
    PATH=/usr/local/lib/longshore/bin:$PATH containerd

Nothing shadows an installed containerd unless it is asked to. A launcher holds
the absolute path of this interpreter and ``-I``: neither the working directory
nor PYTHON* variables decide what runs. runc, which is started for every
container, is one precompiled file beside its launcher and runs with ``-S`` too; its
launcher is a native one where there is a C compiler (see longshore.oci.native). What the
other programs import is in another such file (see longshore.link.bundle).
docker-init is a copy of ours, which containers are given, where it could be compiled.

What is to be written is gathered first; a file that we didn't write is never
replaced, and then nothing at all is written.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from typing import Final

from longshore.init import native as init
from longshore.launcher import BRIEF, PROGRAMS
from longshore.link import bundle
from longshore.oci import native

# The name of a launcher, and the program of `PROGRAMS` that it starts.
LAUNCHERS: Final = {
    "containerd": "containerd",
    "containerd-shim-longshore-v1": "shim",
    # Where an original containerd finds this one, ours serves io.containerd.runc.v2 too.
    "containerd-shim-runc-v2": "shim",
    "ctr": "ctr",
    "docker": "docker",
    "docker-proxy": "docker-proxy",
    "dockerd": "dockerd",
    "runc": "runc",
}

# Programs of many modules, which are worth a look into a file of them; a shim would keep its index in memory.
BUNDLED: Final = frozenset({"containerd", "ctr", "docker", "dockerd"})

MARK: Final = "# Written by `longshore link`, which may replace it."
RUNTIME: Final = ".longshore-runc.pyc"
RUNTIME_MARK: Final = b"longshore-runc"  # the name that `onefile` gives its code

# Bytes: the loader at the beginning of the precompiled runtime is shorter (6 kB), all of it much longer.
HEAD: Final = 32 << 10
# Bytes: the native launcher of runc, with the C library in it, is shorter.
NATIVE_LIMIT: Final = 4 << 20

# The kernel reads so much of a script to find its interpreter (BINPRM_BUF_SIZE).
SHEBANG_LIMIT: Final = 255

_LAUNCHER = """\
import sys
from {module} import main
sys.argv[0] = {name!r}
sys.exit(main())
"""

_BRIEF_LAUNCHER = """\
import sys
from longshore.launcher import hurry, leave
hurry()
from {module} import main
sys.argv[0] = {name!r}
leave(main())
"""

# Bare modules only: -S has no site-packages, and every import is start-up time.
_RUNTIME_LAUNCHER = """\
import marshal, sys
from _frozen_importlib_external import MAGIC_NUMBER
with open({file!r}, "rb", buffering=0) as file:
    data = file.read({head})
if data[:4] != MAGIC_NUMBER:
    sys.exit("runc: made for another version of Python: run longshore link again")
sys.argv[0] = "runc"
exec(marshal.loads(data[16:]), {{"__name__": "__main__", "__file__": {file!r}}})
"""


class Refused(Exception):
    """What stands in the way, in words."""


def main() -> int:
    """Run with sys.argv; 1 with the reason on stderr when a file of somebody else's is in the way."""
    arguments = _parser().parse_args()
    try:
        written = link(arguments.dir)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        print(
            f"longshore link: {error.filename or arguments.dir}: {reason}; choose another folder",
            file=sys.stderr,
        )
        return 1
    except Refused as error:
        print(f"longshore link: {error}", file=sys.stderr)
        return 1
    for path in written:
        print(path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longshore link",
        description=f"Write launchers for {', '.join(LAUNCHERS)} into DIR.",
        epilog="They belong to this installation: run it again after an upgrade.",
        allow_abbrev=False,
    )
    parser.add_argument("dir", metavar="DIR", help="a folder, made if it isn't there; yours to put on PATH")
    return parser


def link(directory: str, python: str = sys.executable) -> list[str]:
    """Write the launchers and answer their paths. Raises Refused, OSError.

    Each file is replaced in one step: what runs at the moment is not disturbed.
    """
    directory = os.path.abspath(directory)
    plan = launchers(directory, os.path.abspath(python))
    runtime, modules = os.path.join(directory, RUNTIME), os.path.join(directory, bundle.NAME)
    check([*plan, runtime, modules])
    launcher = os.path.join(directory, "runc")
    os.makedirs(directory, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory(dir=directory, prefix=".longshore-link-") as drafts:
        files = {runtime: precompiled(drafts), modules: bundled(drafts, python), **plan}
        for target, data in files.items():
            draft = os.path.join(drafts, os.path.basename(target))
            if target != launcher or not native.build(draft, *native_launcher(runtime, python), MARK):
                with open(draft, "wb") as file:
                    file.write(data)
            os.chmod(draft, 0o644 if target in (runtime, modules) else 0o755)
            os.replace(draft, target)
            written.append(target)
    return written


def launchers(directory: str, python: str) -> dict[str, bytes]:
    """Path -> text of every launcher. Raises Refused for an interpreter that no script can name."""
    runtime = os.path.join(directory, RUNTIME)
    plan = {}
    for name, program in LAUNCHERS.items():
        if name == "runc":
            flags, body = "-IS", _RUNTIME_LAUNCHER.format(file=runtime, head=HEAD)
        else:
            text = _BRIEF_LAUNCHER if program in BRIEF else _LAUNCHER
            flags, body = "-I", text.format(module=PROGRAMS[program], name=name)
            if program in BUNDLED:
                body = bundle.PRELUDE.format(file=os.path.join(directory, bundle.NAME)) + body
        plan[os.path.join(directory, name)] = f"{shebang(python, flags)}\n{MARK}\n{body}".encode()
    if init.build():
        plan[os.path.join(directory, "docker-init")] = init.BINARY.read_bytes()
    return plan


def native_launcher(runtime: str, python: str) -> tuple[str, list[str]]:
    """The interpreter of runc's native launcher, and its arguments: the script by word of mouth."""
    code = _RUNTIME_LAUNCHER.format(file=runtime, head=HEAD)
    return os.path.abspath(python), ["-IS", "-c", code]


def shebang(python: str, flags: str) -> str:
    """``#!python flags``. Raises Refused when the kernel would misread it."""
    line = f"#!{python} {flags}"
    if any(character.isspace() for character in python) or len(os.fsencode(line)) > SHEBANG_LIMIT:
        raise Refused(
            f"a script can't name the interpreter {python!r}: "
            "its path has a space or is too long. Install longshore in another folder"
        )
    return line


def check(paths: Iterable[str]) -> None:
    """Raise Refused, naming them all, if files are in the way that aren't ours."""
    foreign = [path for path in paths if os.path.lexists(path) and not ours(path)]
    if foreign:
        raise Refused(
            f"{', '.join(foreign)}: not written by longshore link, so left alone. Nothing was written; "
            "choose another folder, or move them away"
        )


def ours(path: str) -> bool:
    """Whether we wrote a file: a regular one with our mark near its beginning, not a link to elsewhere."""
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        data = file.read(HEAD)
        rest = file.read(NATIVE_LIMIT) if data[:4] == b"\x7fELF" else b""
    if os.path.basename(path) == RUNTIME:
        return RUNTIME_MARK in data
    if os.path.basename(path) == bundle.NAME:
        return data[8:16] == bundle.MARK
    if rest:
        return MARK.encode() in data + rest
    return data[:2] == b"#!" and MARK.encode() in data.split(b"\n", 2)[1:2]


def precompiled(folder: str) -> bytes:
    """The runtime as `onefile` writes it."""
    from longshore.oci import onefile

    target = os.path.join(folder, "runtime.pyc")
    onefile.build(target)
    with open(target, "rb") as file:
        return file.read()


def bundled(folder: str, python: str) -> bytes:
    """The modules of the other programs as `bundle` writes them; none if one of the programs can't be imported."""
    target = os.path.join(folder, "modules.pyc")
    try:
        bundle.build(target, python)
    except subprocess.SubprocessError:
        return bundle.NOTHING
    with open(target, "rb") as file:
        return file.read()
