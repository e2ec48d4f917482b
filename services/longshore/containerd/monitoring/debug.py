"""The debug socket: what the daemon is doing just now, for people.

    curl --unix-socket /run/containerd/debug.sock http://d/debug/stacks

Go's pprof pages make no sense here; ``/debug/vars`` has the same place and form.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import traceback

from longshore.containerd.monitoring.http import Handler, Page


def pages() -> dict[str, Handler]:
    return {"/debug/vars": variables, "/debug/stacks": stacks}


async def variables() -> Page:
    """Numbers of the interpreter."""
    found = {
        "cmdline": sys.orig_argv,
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "objects": sum(gc.get_count()),
    }
    return Page(json.dumps(found).encode() + b"\n", "application/json; charset=utf-8")


async def stacks() -> Page:
    """Every thread, and every call that waits for something."""
    parts: list[str] = []
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        parts.append(f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}")
    for task in asyncio.all_tasks():
        frames = "".join(line for frame in task.get_stack() for line in traceback.format_stack(frame, 1))
        parts.append(f"task {task.get_name()} {task.get_coro()}:\n{frames}")
    return Page("\n".join(parts).encode())
