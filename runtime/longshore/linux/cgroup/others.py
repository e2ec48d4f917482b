"""The small controllers: hugetlb, net_cls, net_prio, rdma, and v2's "unified" free form."""

from __future__ import annotations

import os

from longshore.linux.cgroup import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def hugetlb_v1(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """Limits of huge pages by page size."""
    limits = resources.get("hugepageLimits") or ()
    return [(f"hugetlb.{each['pageSize']}.limit_in_bytes", str(each["limit"])) for each in limits]


def hugetlb_v2(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for v2."""
    limits = resources.get("hugepageLimits") or ()
    return [(f"hugetlb.{each['pageSize']}.max", str(each["limit"])) for each in limits]


def hugetlb_stats(path: str, version: int) -> dict[str, Any]:
    """Usage by page size."""
    usage, peak, failures = (
        ("usage_in_bytes", "max_usage_in_bytes", "failcnt") if version == 1 else ("current", "max", "events")
    )
    found = {}
    for name in os.listdir(path) if path else ():
        if name.startswith("hugetlb.") and name.endswith("." + usage) and ".rsvd." not in name:
            size = name.split(".")[1]
            prefix = f"{path}/hugetlb.{size}."
            found[size] = {
                "usage": values.number(prefix + usage),
                "max": values.number(prefix + peak),
                "failcnt": values.number(prefix + failures),
            }
    return found


def net_cls_v1(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """The class of packets."""
    class_id = (resources.get("network") or {}).get("classID")
    return [("net_cls.classid", str(class_id))] if class_id else []


def net_prio_v1(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """Priorities by interface."""
    priorities = (resources.get("network") or {}).get("priorities") or ()
    return [("net_prio.ifpriomap", f"{each['name']} {each['priority']}") for each in priorities]


def rdma(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """Handles and objects by device (the same in v1 and v2)."""
    writes = []
    for device, limit in (resources.get("rdma") or {}).items():
        handles, objects = limit.get("hcaHandles"), limit.get("hcaObjects")
        words = [f"hca_handle={handles}"] if handles is not None else []
        words += [f"hca_object={objects}"] if objects is not None else []
        writes.append(("rdma.max", " ".join([device, *words])))
    return writes


def unified(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """v2 files by name, as given."""
    writes = []
    for name, value in sorted((resources.get("unified") or {}).items()):
        if "/" in name:
            raise ValueError(f'unified resource "{name}" must be a file name (no slashes)')
        writes.append((name, value))
    return writes
