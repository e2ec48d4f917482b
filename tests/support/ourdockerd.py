"""Our dockerd on a containerd, ours or Debian's, on a private host: used as `support.dockerd.Dockerd` is.

    with OurDockerd() as docker:
        docker("run", "--rm", BUSYBOX, "true")

Bridges, iptables rules and /etc/resolv.conf are the private host's, and go with it.
"""

from __future__ import annotations

from pathlib import Path

from support import images
from support.daemon import LONGSHORE
from support.dockerd import BUSYBOX, NAMESPACE, AnyDockerd

__all__ = ["BUSYBOX", "NAMESPACE", "PARTS", "OurDockerd"]

PARTS = (
    *("docker", "docker-proxy", "docker-init", "busybox"),
    *("iptables", "ip6tables", "iptables-restore", "ip6tables-restore", "iptables-save", "ip6tables-save"),
)


class OurDockerd(AnyDockerd):
    """``longshore dockerd``. Its first image is imported by ctr, so that only starting it needs dockerd."""

    parts = PARTS

    def _program(self) -> list[str | Path]:
        return [LONGSHORE, "dockerd"]

    def _first_start(self) -> None:
        archive = images.busybox_archive(self.folder)
        self.containerd.go_ctr("--namespace", NAMESPACE, "images", "import", archive)
        self.start()
