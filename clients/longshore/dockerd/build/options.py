"""The query of POST /build."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from longshore.api.errors import InvalidArgument, Unimplemented
from longshore.client import oci
from longshore.dockerd.http import Call
from longshore.dockerd.images import names
from longshore.dockerd.images.names import Reference
from longshore.dockerd.images.registries import Auth
from longshore.dockerd.records import HostConfig, LogConfig, Ulimit

T = TypeVar("T")

DEFAULT_DOCKERFILE: Final = "Dockerfile"
_HUB_KEY: Final = "https://index.docker.io/v1/"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a client wishes of a build."""

    dockerfile: str = DEFAULT_DOCKERFILE
    remote: str = ""
    tags: tuple[Reference, ...] = ()
    quiet: bool = False
    use_cache: bool = True
    cache_from: tuple[str, ...] = ()
    pull: bool = False
    remove: bool = True
    """Remove a step's container when the step has succeeded."""
    force_remove: bool = False
    """Remove it always."""
    arguments: dict[str, str | None] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    target: str = ""
    platform: oci.Platform | None = None
    host: HostConfig = field(default_factory=HostConfig)
    auths: dict[str, Auth] = field(default_factory=dict)
    id: str = ""

    def auth(self, reference: Reference) -> Auth:
        """Whom the client is at the reference's registry."""
        domain = reference.domain
        keys = (_HUB_KEY, "docker.io") if domain == names.DOCKER_HUB else (domain, f"https://{domain}")
        return next((self.auths[key] for key in keys if key in self.auths), Auth())


def of(call: Call) -> Options:
    """Raises InvalidArgument, and Unimplemented for what this builder hasn't."""
    if call.query.get("version") == "2":
        raise Unimplemented("this daemon has no BuildKit: set DOCKER_BUILDKIT=0 to use its classic builder")
    if call.query.get("version", "") not in ("", "1"):
        raise InvalidArgument(f'invalid version "{call.query["version"]}"')
    if call.flag("squash"):
        raise InvalidArgument("squash is only supported with experimental mode")
    if call.query.get("outputs"):
        raise InvalidArgument("this daemon has no BuildKit, which outputs of a build need")
    if (isolation := call.query.get("isolation", "")) not in ("", "default"):
        raise InvalidArgument(f'Unsupported isolation: "{isolation}"')
    if call.values("securityopt"):
        raise InvalidArgument(
            "The daemon on this platform does not support setting security options on build"
        )
    force = call.flag("forcerm")
    return Options(
        dockerfile=call.query.get("dockerfile") or DEFAULT_DOCKERFILE,
        remote=call.query.get("remote", ""),
        tags=tags(call.values("t")),
        quiet=call.flag("q"),
        use_cache=not call.flag("nocache"),
        cache_from=tuple(_decoded(call, "cachefrom", list[str], "error reading cache-from") or ()),
        pull=call.flag("pull"),
        remove=force or not call.query.get("rm") or call.flag("rm"),
        force_remove=force,
        arguments=_decoded(call, "buildargs", dict[str, str | None], "error reading build args") or {},
        labels=_decoded(call, "labels", dict[str, str], "error reading labels") or {},
        target=call.query.get("target", ""),
        platform=_platform(call.query.get("platform", "")),
        host=_host(call),
        auths=_auths(call.headers.get("x-registry-config", "")),
        id=call.query.get("buildid", ""),
    )


def tags(texts: list[str]) -> tuple[Reference, ...]:
    """Each once. Raises InvalidArgument."""
    found: dict[str, Reference] = {}
    for text in filter(None, texts):
        reference = names.parse(text)
        if reference.digest:
            raise InvalidArgument("build tag cannot contain a digest")
        found.setdefault(str(reference), reference)
    return tuple(found.values())


def _host(call: Call) -> HostConfig:
    """Under which rules its RUN steps run."""
    mode = call.query.get("networkmode", "")
    return HostConfig(
        memory=call.integer("memory", 0) or 0,
        memory_swap=call.integer("memswap", 0) or 0,
        cpu_shares=call.integer("cpushares", 0) or 0,
        cpu_period=call.integer("cpuperiod", 0) or 0,
        cpu_quota=call.integer("cpuquota", 0) or 0,
        cpuset_cpus=call.query.get("cpusetcpus", ""),
        cpuset_mems=call.query.get("cpusetmems", ""),
        cgroup_parent=call.query.get("cgroupparent", ""),
        shm_size=call.integer("shmsize", 0) or 0,
        ulimits=_decoded(call, "ulimits", list[Ulimit], "error reading ulimit settings"),
        extra_hosts=[host for value in call.values("extrahosts") for host in value.split(",") if host]
        or None,
        network_mode="" if mode == "default" else mode,
        log_config=LogConfig(type="none"),
    )


def _decoded(call: Call, name: str, kind: type[T], words: str) -> T | None:
    text = call.query.get(name, "")
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=kind | None)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{words}: {error}") from None


def _platform(text: str) -> oci.Platform | None:
    try:
        return oci.parse_platform(text) if text else None
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def _auths(header: str) -> dict[str, Auth]:
    """X-Registry-Config; what can't be read is nobody, as the original has it."""
    if not header:
        return {}
    try:
        data = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
        return msgspec.json.decode(data, type=dict[str, Auth])
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return {}
