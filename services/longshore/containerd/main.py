"""The containerd daemon: ``longshore containerd [flags]`` with ``config`` and ``publish`` commands.

The order of what happens at start is fixed by what may not go wrong: refuse an
old kernel or Python; read the settings; claim the directories, so that no
second daemon gets further; spawn the zygote while this process is small and has
no threads; and only then import grpc, which has threads of its own and forbids
forking (the daemon never runs Python between fork and exec).
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from longshore import plainlog
from longshore.api.errors import Error
from longshore.containerd import config as configuration
from longshore.containerd import logs
from longshore.containerd.directories import Directories, claim, usable
from longshore.containerd.oserrors import words
from longshore.linux.descriptors import raise_limit

if TYPE_CHECKING:
    from longshore.zygote.client import Zygote

# The newest call that nothing works without is mount_setattr.
MIN_KERNEL: Final = (5, 12)
MIN_PYTHON: Final = (3, 11)

# A sockaddr_un has 108 bytes, one of them the NUL.
MAX_SOCKET_PATH: Final = 107


def main() -> int:
    """Run by the launcher; reads sys.argv. 0 after a clean stop, 1 with a message on stderr otherwise."""
    arguments = _parser().parse_args()
    try:
        _require_platform(os.uname().release)
        settings = _settings(arguments)
        if arguments.command == "config":
            return _print_config(settings)
        if arguments.command == "publish":
            return _publish(settings.address, arguments)
        logs.configure(settings.log_level, settings.log_format)
        _require_socket_path(settings.address)
        _require_socket_path(settings.ttrpc_socket)
        directories = Directories(settings.root, settings.state)
        with claim(directories):
            usable(Path(settings.address).parent, 0o711, "--address")
            _set_oom_score(settings.oom_score)
            return _serve(settings, directories)
    except OSError as error:
        print(f"containerd: {words(error)}", file=sys.stderr)
        return 1
    except (Error, ValueError) as error:
        print(f"containerd: {error}", file=sys.stderr)
        return 1


def _serve(settings: configuration.Config, directories: Directories) -> int:
    zygote = _spawn_zygote(settings)
    raise_limit()  # every task takes three descriptors; the zygote, and with it containers, keep what was given
    gc.disable()  # nothing that is imported is garbage, and looking for some is a tenth of it
    # Not at the top of the file: this imports grpc, and the zygote must be there before.
    import asyncio

    from longshore.containerd.daemon import Daemon

    gc.freeze()
    gc.enable()
    return asyncio.run(Daemon(settings, directories, zygote).run())


def _set_oom_score(score: int) -> None:
    """How soon the kernel ends us when memory runs out; children inherit it. 0 leaves it as it is."""
    if score:
        Path("/proc/self/oom_score_adj").write_text(str(score))


def _spawn_zygote(settings: configuration.Config) -> Zygote | None:
    try:
        from longshore.zygote.client import Zygote
    except ModuleNotFoundError:
        return None
    return Zygote.spawn(log_level=settings.log_level)


# -- command line -------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="containerd",
        description="A container runtime daemon, compatible with containerd.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", "-c", type=Path, metavar="FILE", help="configuration file")
    parser.add_argument("--log-level", "-l", metavar="LEVEL", help=", ".join(plainlog.LEVELS))
    parser.add_argument("--log-format", choices=("text", "json"), help="how log lines look")
    parser.add_argument("--address", "-a", metavar="SOCKET", help="gRPC socket")
    parser.add_argument("--root", metavar="DIR", help="directory for what persists")
    parser.add_argument("--state", metavar="DIR", help="directory for what a reboot may take")
    parser.add_argument("--version", "-v", action=_PrintVersion, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    config = commands.add_parser("config", help="information on the configuration")
    actions = config.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("default", help="print the defaults")
    actions.add_parser("dump", help="print what file, imports and flags amount to")
    actions.add_parser("migrate", help="print the file in the newest version")
    publish = commands.add_parser("publish", help="publish the event on stdin")
    publish.add_argument("--namespace", required=True)
    publish.add_argument("--topic", required=True)
    return parser


class _PrintVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from longshore.containerd.version import REVISION, VERSION

        print(f"containerd github.com/containerd/containerd {VERSION} {REVISION}")
        parser.exit(0)


def _settings(arguments: argparse.Namespace) -> configuration.Config:
    if arguments.command == "config" and arguments.action == "default":
        return configuration.Config()
    return configuration.with_flags(
        configuration.load(arguments.config),
        root=arguments.root and Path(os.path.abspath(arguments.root)),
        state=arguments.state and Path(os.path.abspath(arguments.state)),
        address=arguments.address,
        log_level=arguments.log_level,
        log_format=arguments.log_format,
    )


def _print_config(settings: configuration.Config) -> int:
    print(configuration.dump(settings), end="")
    return 0


def _publish(address: str, arguments: argparse.Namespace) -> int:
    from longshore.containerd.publish import publish

    publish(address, arguments.namespace, arguments.topic, sys.stdin.buffer.read())
    return 0


# -- refusals -----------------------------------------------------------------------------------------------


def _require_platform(release: str) -> None:
    """Raise Error below the oldest kernel or Python that we know to work."""
    if sys.version_info < MIN_PYTHON:
        raise Error(
            f"Python {'.'.join(map(str, MIN_PYTHON))} or newer is needed, this is {sys.version.split()[0]}"
        )
    if kernel_version(release) < MIN_KERNEL:
        raise Error(f"Linux {'.'.join(map(str, MIN_KERNEL))} or newer is needed, this is {release}")


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 1) of "6.1.0-18-amd64"; (0, 0) of what makes no sense."""
    major, _, rest = release.partition(".")
    minor = "".join(character for character in rest[:4].partition(".")[0] if character.isdigit())
    return (int(major), int(minor)) if major.isdigit() and minor else (0, 0)


def _require_socket_path(path: str) -> None:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise Error(
            f"socket path {path!r} is longer than the kernel allows ({MAX_SOCKET_PATH} bytes):"
            " give a shorter --address"
        )


if __name__ == "__main__":
    sys.exit(main())
