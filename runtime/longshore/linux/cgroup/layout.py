"""Where this host keeps its cgroups: v1 hierarchies, v2, or both (hybrid)."""

from __future__ import annotations

from longshore.linux import files, mounts

# The order in which a container's cgroups are made and joined. cpuset comes first: a cgroup without
# CPUs and memory nodes can't be entered.
CONTROLLERS = (
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "misc",
    "name=systemd",
)


class Layout:
    """version: 1 (also hybrid) or 2; mounts: controller -> mount point; own: controller -> our cgroup below it.

    The key "" stands for the v2 hierarchy, which in hybrid mode has no controllers.
    """

    __slots__ = ("mounts", "own", "version")

    def __init__(self, version: int, mount_points: dict[str, str], own: dict[str, str]) -> None:
        self.version = version
        self.mounts = mount_points
        self.own = own

    @property
    def hybrid(self) -> bool:
        """v1 controllers with a v2 hierarchy beside them."""
        return self.version == 1 and "" in self.mounts

    def controllers(self) -> list[str]:
        """Those of v1 that are mounted, in the order of `CONTROLLERS`."""
        return [name for name in CONTROLLERS if name in self.mounts]

    def path(self, controller: str, wanted: str) -> str:
        """The directory of cgroup ``wanted``: absolute from the mount's root, relative from our own cgroup."""
        base = self.mounts[controller]
        if not wanted.startswith("/"):
            base += self.own.get(controller, "/").rstrip("/")
        return f"{base}/{wanted.strip('/')}"


def detect(mountinfo: bytes | None = None, membership: bytes | None = None) -> Layout:
    """Read the layout of this process (or of the given contents of mountinfo and cgroup)."""
    if mountinfo is None:
        mountinfo = files.read_bounded("/proc/self/mountinfo", 8 << 20)
    if membership is None:
        membership = files.read_bounded("/proc/self/cgroup")
    points: dict[str, str] = {}
    roots: dict[str, str] = {}
    # A cheap filter first: a node with a thousand containers has ten thousand lines here.
    lines = b"\n".join(line for line in mountinfo.split(b"\n") if b" - cgroup" in line)
    for _, _, root, point, _, fstype, superblock in mounts.parse_mountinfo(lines):
        if root.startswith("/.."):
            continue
        names = (
            [""] if fstype == "cgroup2" else [word for word in superblock.split(",") if word in CONTROLLERS]
        )
        for name in names:
            if name not in points:
                points[name], roots[name] = point, root
    version = 2 if points.get("") and len(points) == 1 else 1
    return Layout(version, points, _own(membership, roots))


def _own(membership: bytes, roots: dict[str, str]) -> dict[str, str]:
    own = {}
    for line in membership.decode(errors="surrogateescape").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for name in controllers.split(","):
            root = roots.get(name, "/")
            if root != "/" and (path == root or path.startswith(root + "/")):
                path = path[len(root) :] or "/"
            own[name] = path
    return own
