"""The Engine API's documents about networks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from msgspec import field

from longshore.dockerd.records import Document, EndpointSettings

if TYPE_CHECKING:
    from longshore.dockerd.network.records import NetworkRecord, PoolRecord
    from longshore.dockerd.network.registry import Network


class IpamPool(Document):
    subnet: str = ""
    ip_range: str = field(default="", name="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None


class Ipam(Document):
    driver: str = ""
    options: dict[str, str] | None = None
    config: list[IpamPool] | None = None


class ConfigReference(Document):
    network: str = ""


class CreateBody(Document):
    """POST /networks/create."""

    name: str = ""
    check_duplicate: bool = False
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference | None = None
    ipam: Ipam | None = field(default=None, name="IPAM")
    enable_ipv4: bool | None = field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = field(default=None, name="EnableIPv6")
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class ConnectBody(Document):
    """POST /networks/{id}/connect."""

    container: str = ""
    endpoint_config: EndpointSettings | None = None


class DisconnectBody(Document):
    """POST /networks/{id}/disconnect."""

    container: str = ""
    force: bool = False


def summary(network: Network, version: tuple[int, int], containers: bool = False) -> dict[str, Any]:
    """A network as list (without its containers) and inspect show it."""
    record = network.record
    shown: dict[str, Any] = {
        "Name": record.name,
        "Id": record.id,
        "Created": _time(record.created_ns),
        "Scope": "local",
        "Driver": record.driver,
        "EnableIPv6": record.enable_ipv6,
        "IPAM": {
            "Driver": record.ipam_driver,
            "Options": record.ipam_options,
            "Config": [_pool(each) for each in record.pools],
        },
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": record.config_from},
        "ConfigOnly": record.config_only,
        "Containers": _containers(network) if containers else {},
        "Options": record.options,
        "Labels": record.labels,
    }
    if version >= (1, 48):
        shown["EnableIPv4"] = record.enable_ipv4
    return shown


def _pool(record: PoolRecord) -> dict[str, Any]:
    shown: dict[str, Any] = {"Subnet": record.subnet}
    if record.ip_range:
        shown["IPRange"] = record.ip_range
    if record.gateway:
        shown["Gateway"] = record.gateway
    if record.auxiliary:
        shown["AuxiliaryAddresses"] = record.auxiliary
    return shown


def _containers(network: Network) -> dict[str, Any]:
    return {
        container: {
            "Name": sandbox.name,
            "EndpointID": endpoint.id,
            "MacAddress": endpoint.mac,
            "IPv4Address": endpoint.ipv4,
            "IPv6Address": endpoint.ipv6,
        }
        for container, (sandbox, endpoint) in network.endpoints.items()
    }


def _time(ns: int) -> str:
    seconds, rest = divmod(ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09d}Z"


def matches(record: NetworkRecord, filters: dict[str, list[str]], used: bool) -> bool:
    """Whether `docker network ls --filter` shows it; `used`: a container has it."""
    tests: dict[str, Callable[[str], bool]] = {
        "id": lambda value: record.id.startswith(value),
        "name": lambda value: value in record.name,
        "driver": lambda value: record.driver == value,
        "scope": lambda value: value == "local",
        "type": lambda value: _is_of_type(record, value),
        "dangling": lambda value: (value in ("true", "1")) != used and not is_predefined(record),
    }
    for name, values in filters.items():
        if name == "label":
            if not all(has_label(record, value) for value in values):
                return False
        elif name in tests and not any(tests[name](value) for value in values):
            return False
    return True


def is_predefined(record: NetworkRecord) -> bool:
    return record.name in ("bridge", "host", "none")


def _is_of_type(record: NetworkRecord, kind: str) -> bool:
    return is_predefined(record) == (kind == "builtin")


def has_label(record: NetworkRecord, text: str) -> bool:
    """ "name" or "name=value"."""
    name, equals, value = text.partition("=")
    return name in record.labels and (not equals or record.labels[name] == value)
