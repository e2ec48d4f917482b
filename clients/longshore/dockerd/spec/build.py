"""The OCI specification of a container that is about to start."""

from __future__ import annotations

from typing import Any

from longshore.dockerd.records import Container
from longshore.dockerd.spec import devices, mounts, namespaces, process, resources, security
from longshore.dockerd.spec.settings import Place


def make(container: Container, place: Place) -> dict[str, Any]:
    """All of it, as data. The root is `rootfs` in the bundle: give Tasks.Create the snapshot's mounts.

    `container.mounts` must be resolved (`points.resolve`), `container.path`
    and `args` set (`merge.command`). Raises InvalidArgument for what can't be
    (an unknown user, capability, device or option), NotFound and Conflict for
    a peer whose namespace can't be joined.
    """
    host = container.host_config
    options = security.parse(host.security_opt or (), place.settings)
    capabilities = process.capabilities(host)
    return {
        "ociVersion": "1.0.2",
        "process": process.make(
            container, place, no_new_privileges=options.no_new_privileges, apparmor=options.apparmor
        ),
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        **({} if host.uts_mode == "host" else {"hostname": container.config.hostname}),
        "mounts": mounts.make(container, place),
        "annotations": dict(host.annotations or {}),
        "linux": {
            "sysctl": namespaces.sysctls(container, place),
            "resources": resources.make(host) | {"devices": devices.rules(host)},
            "cgroupsPath": cgroup(container, place),
            "namespaces": namespaces.make(container, place),
            "devices": devices.nodes(host),
            **security.paths(host, options),
            **security.filter_of(host, options, capabilities),
            **_propagation(container),
        },
    }


def cgroup(container: Container, place: Place) -> str:
    """Absolute, below the parent that the container or the daemon names."""
    parent = container.host_config.cgroup_parent or place.settings.cgroup_parent
    return f"/{parent.strip('/')}/{container.id}"


def _propagation(container: Container) -> dict[str, str]:
    mode = mounts.root_propagation(container.mounts)
    return {"rootfsPropagation": mode} if mode else {}
