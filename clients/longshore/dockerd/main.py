"""The daemon of the Engine API: ``longshore dockerd [flags]``.

The order of what happens at start is fixed by what may not go wrong: read the
settings; claim the directories, so that no second dockerd gets further; spawn
the zygote while this process is small and has no threads; and only then import
grpc, which has threads of its own and forbids forking.
"""

from __future__ import annotations

import gc
import os
import sys
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

import msgspec

from longshore import plainlog  # noqa: F401
from longshore.api.errors import Error
from longshore.dockerd import config as configuration
from longshore.dockerd import directories, listeners, output
from longshore.linux.descriptors import raise_limit

# What starts of containers wait for: loggers, proxies, and the work on file systems.
WARM = (
    *("longshore.layers.worker", "longshore.dockerd.archive.worker", "longshore.dockerd.volumes.worker"),
    "longshore.dockerd.build.worker",
    *("longshore.proxy.main", "longshore.proxy.tcp", "longshore.proxy.udp"),
    *("longshore.dockerd.network.worker", "longshore.dockerd.logs.logger"),
    *("longshore.proxy.rehearsal", "longshore.dockerd.logs.rehearsal"),
)


def main() -> int:
    """Run by the launcher; reads sys.argv. 0 after a clean stop, 1 with a message on stderr otherwise."""
    arguments = configuration.parser().parse_args()
    if arguments.version:
        from longshore.dockerd.version import COMMIT, VERSION

        print(f"Docker version {VERSION}, build {COMMIT}")
        return 0
    try:
        config = configuration.load(arguments)
        if arguments.validate:
            print("configuration OK", file=sys.stderr)
            return 0
        configuration.paths_are_absolute(config)
        output.configure("debug" if config.debug else config.log_level, config.log_format)
        return _serve(config, arguments)
    except (Error, ValueError, OSError, msgspec.MsgspecError) as error:
        print(f"dockerd: {error}", file=sys.stderr)
        return 1


def _serve(config: configuration.Config, arguments: Namespace) -> int:
    if os.geteuid() != 0:
        raise Error("dockerd needs to be started with root privileges")
    handed_over = listeners.inherited(os.environ)  # type: ignore[arg-type]
    config.hosts = config.hosts or [configuration.DEFAULT_HOST]
    with ExitStack() as stack:
        stack.enter_context(directories.claim(config.data_root, config.exec_root))
        stack.enter_context(directories.pidfile(config.pidfile))
        if config.oom_score_adjust:
            Path("/proc/self/oom_score_adj").write_text(str(config.oom_score_adjust))
        from longshore.zygote.client import Zygote

        zygote = Zygote.spawn("debug" if config.debug else config.log_level, WARM)
        raise_limit()  # every client and container takes some; the zygote, and what it starts, keep what was given
        gc.disable()  # nothing that is imported is garbage, and looking for some is a tenth of it
        # Not at the top of the file: this imports grpc, and the zygote must be there before.
        import asyncio

        from longshore.dockerd.daemon import Daemon

        gc.freeze()
        gc.enable()
        return asyncio.run(Daemon(config, zygote, arguments, handed_over).run())


if __name__ == "__main__":
    sys.exit(main())
