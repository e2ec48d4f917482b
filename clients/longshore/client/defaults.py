"""Where a client turns to when nobody says otherwise. Imports nothing: command lines need it before all else."""

from __future__ import annotations

import os

ADDRESS = "/run/containerd/containerd.sock"
NAMESPACE = "default"
SNAPSHOTTER = "overlayfs"
RUNTIME = "io.containerd.runc.v2"


def address() -> str:
    """CONTAINERD_ADDRESS, else where containerd listens by default."""
    return os.environ.get("CONTAINERD_ADDRESS") or ADDRESS


def namespace() -> str:
    """CONTAINERD_NAMESPACE, else "default"."""
    return os.environ.get("CONTAINERD_NAMESPACE") or NAMESPACE
