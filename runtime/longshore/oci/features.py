"""features: what this runtime can do, in the form of the OCI features document."""

from __future__ import annotations

import sys

from longshore.linux import capabilities, mounts, namespaces, seccomp
from longshore.oci import codec, config, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from longshore.oci.cli import Call


def features() -> dict[str, Any]:
    """The document."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": config.OCI_VERSION,
        "hooks": list(state.HOOK_KINDS),
        "mountOptions": list(mounts.OPTION_NAMES),
        "linux": {
            "namespaces": sorted(namespaces.TYPES),
            "capabilities": list(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": seccomp.available(),
                "actions": sorted(seccomp.ACTIONS),
                "operators": sorted(seccomp.OPERATORS),
                "archs": sorted(seccomp.ARCHITECTURES),
                "knownFlags": sorted(seccomp.FLAGS),
                "supportedFlags": sorted(seccomp.FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {"org.opencontainers.runc.checkpoint.enabled": "true"},
        "potentiallyUnsafeConfigAnnotations": [],
    }


FLAGS: dict[str, str] = {}
ARGUMENTS = (0, 0)


def main(call: Call) -> int:
    """``runc features``"""
    sys.stdout.write(codec.dumps(features(), "    ") + "\n")
    return 0
