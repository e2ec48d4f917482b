"""`docker update`: limits of a container, running or not, and its restart policy."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from longshore.api.errors import Error, NotFound
from longshore.dockerd.backend.live import Live
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.errors import Conflict, ServerError
from longshore.dockerd.records import HostConfig, Resources, RestartPolicy
from longshore.dockerd.spec import resources, validate


class UpdateBody(Resources):
    """POST /containers/{name}/update."""

    restart_policy: RestartPolicy | None = None


# What a running container can't be given any more: its devices were made, its rlimits set.
_FIXED: Final = frozenset(("cgroup_parent", "devices", "device_cgroup_rules", "device_requests", "ulimits"))


async def update(parts: Parts, live: Live, body: UpdateBody) -> list[str]:
    """Warnings. Raises InvalidArgument, Conflict; nothing is changed then."""
    async with live.lock:
        record = live.record
        if record.state.removing or record.state.status == "dead":
            raise Conflict(
                f'Cannot update container {live.id}: container is marked for removal and cannot be "update".'
            )
        draft = live.draft()
        wanted = asked(body)
        merged(draft.host_config, wanted, live.id)
        warnings = validate.resources(draft.host_config)
        if not body.kernel_memory:  # it was said when it was set
            warnings = [text for text in warnings if text != validate.DEPRECATED]
        _policy(draft.host_config, body.restart_policy, live.id)
        if live.has_process and wanted:
            await _apply(parts, live, draft.host_config)
        await parts.registry.save(live, draft)
    parts.publish(live, "update")
    return warnings


def asked(body: UpdateBody) -> dict[str, Any]:
    """The members that say something."""
    values = {name: getattr(body, name) for name in Resources.__struct_fields__ if name not in _FIXED}
    return {name: value for name, value in values.items() if value not in (None, 0, "", [])}


def merged(host: HostConfig, wanted: dict[str, Any], id: str) -> None:
    """Into a draft. Raises Conflict where old and new limits contradict each other."""
    if words := _contradiction(host, wanted):
        raise Conflict(f"Cannot update container {id}: {words}")
    for name, value in wanted.items():
        setattr(host, name, value)
    if wanted.get("nano_cpus"):
        host.cpu_period = host.cpu_quota = 0
    if host.pids_limit is not None and host.pids_limit <= 0:
        host.pids_limit = None


def _contradiction(host: HostConfig, wanted: dict[str, Any]) -> str:
    memory, swap = wanted.get("memory", 0), wanted.get("memory_swap", 0)
    if memory and not swap and 0 < host.memory_swap < memory:
        return (
            "Memory limit should be smaller than already set memoryswap limit,"
            " update the memoryswap at the same time"
        )
    for name, word in (("cpu_period", "Period"), ("cpu_quota", "Quota")):
        if wanted.get(name) and host.nano_cpus:
            return f"Conflicting options: CPU {word} cannot be updated as NanoCPUs has already been set"
        if wanted.get("nano_cpus") and getattr(host, name):
            return f"Conflicting options: Nano CPUs cannot be updated as CPU {word} has already been set"
    return ""


def _policy(host: HostConfig, policy: RestartPolicy | None, id: str) -> None:
    if policy is None or not policy.name:
        return
    if host.auto_remove and policy.name != "no":
        words = "Restart policy cannot be updated because AutoRemove is enabled for the container"
        raise Conflict(f"Cannot update container {id}: {words}")
    validate.restart_policy(policy)
    host.restart_policy = msgspec.structs.replace(policy)


async def _apply(parts: Parts, live: Live, host: HostConfig) -> None:
    """All of the limits, old and new: a runtime may take an absent one for none."""
    limits = resources.make(host)
    if host.pids_limit is None:
        limits["pids"] = {"limit": -1}
    try:
        await (await parts.client.tasks.get(live.id)).update(limits)
    except NotFound:
        return  # it has just ended: the limits are its next life's
    except Error as error:
        raise ServerError(f"Cannot update container {live.id}: {error.message}") from error
