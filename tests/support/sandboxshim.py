"""A shim program that serves sandboxes: `write` puts it somewhere. It runs nothing; Stop ends the sandbox with 7."""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = """#!{python}
import asyncio, os, signal, subprocess, sys

flags = dict(zip(sys.argv[1:-1:2], sys.argv[2:-1:2]))
action = sys.argv[-1]
path = os.path.join(os.getcwd(), "sandbox.sock")


async def serve():
    from google.protobuf.timestamp_pb2 import Timestamp
    from longshore.api.runtime.sandbox.v1 import sandbox_pb2 as api
    from longshore.ttrpc.aio import Method, Server

    ended, gone = asyncio.Event(), asyncio.Event()

    async def create(request, metadata):
        open("created", "w").write(request.netns_path)
        return api.CreateSandboxResponse()

    async def start(request, metadata):
        return api.StartSandboxResponse(pid=os.getpid(), created_at=Timestamp(seconds=5))

    async def status(request, metadata):
        return api.SandboxStatusResponse(sandbox_id=request.sandbox_id, pid=os.getpid(), state="SANDBOX_READY")

    async def stop(request, metadata):
        ended.set()
        return api.StopSandboxResponse()

    async def wait(request, metadata):
        await ended.wait()
        return api.WaitSandboxResponse(exit_status=7, exited_at=Timestamp(seconds=9))

    async def shutdown(request, metadata):
        ended.set()
        asyncio.get_running_loop().call_later(0.2, gone.set)
        return api.ShutdownSandboxResponse()

    methods = {{
        "CreateSandbox": Method(api.CreateSandboxRequest, create),
        "StartSandbox": Method(api.StartSandboxRequest, start),
        "SandboxStatus": Method(api.SandboxStatusRequest, status),
        "StopSandbox": Method(api.StopSandboxRequest, stop),
        "WaitSandbox": Method(api.WaitSandboxRequest, wait),
        "ShutdownSandbox": Method(api.ShutdownSandboxRequest, shutdown),
    }}
    server = Server({{"{service}": methods}})
    await server.start(path)
    print("unix://" + path, flush=True)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(1, 2)
    await gone.wait()
    await server.stop()


if action == "start":
    child = subprocess.Popen(
        [sys.executable, __file__, "serve"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, stdin=subprocess.DEVNULL,
    )
    print(child.stdout.readline(), end="")
elif action == "serve":
    asyncio.run(serve())
"""


def write(target: Path, service: str = "containerd.runtime.sandbox.v1.Sandbox") -> Path:
    """The program, serving its methods under the name `service`."""
    target.write_text(PROGRAM.format(python=sys.executable, service=service))
    target.chmod(0o755)
    return target
