"""Activations: made, remembered across restarts of the daemon, and taken back in reverse order.

    <state>/io.containerd.mount-manager.v1.sqlite/<namespace>/<hash of the name>/
        info       the ActivationInfo, written before the first mount
        lease      the id of the lease that it goes with, if there is one
        0 1 ...    where the active mounts are

The state directory is gone after a boot, and so are the mounts.
All of this blocks: the service calls it in a thread, one call a name at a time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from longshore.api import errors
from longshore.api.types.mount_pb2 import ActivationInfo, ActiveMount
from longshore.api.types.mount_pb2 import Mount as MountMessage
from longshore.containerd.mounts import loop
from longshore.containerd.mounts.plan import LOOP, FileSystem, Folder, Place, Planned, formatted, plan
from longshore.containerd.times import timestamp
from longshore.linux.mounts import Mount, mount_all, unmount_all

_INFO: Final = "info"
_LEASE: Final = "lease"
_DEVICE: Final = "loop"  # key of ActiveMount.data


class Activations:
    """Of all namespaces, below one directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, namespace: str, name: str) -> ActivationInfo:
        """Raises NotFound."""
        try:
            return _read(self._place(namespace, name) / _INFO)
        except FileNotFoundError:
            raise errors.NotFound(f'mount activation "{name}": not found') from None

    def all(self, namespace: str) -> list[ActivationInfo]:
        """By name; without those whose record is damaged."""
        found = []
        for path in (self._folder / namespace).glob(f"*/{_INFO}"):
            with suppress(FileNotFoundError, errors.DataLoss):
                found.append(_read(path))
        return sorted(found, key=lambda info: info.name)

    def leased(self) -> list[tuple[str, str, str]]:
        """(namespace, name, lease) of those that go with a lease."""
        found = []
        for path in self._folder.glob(f"*/*/{_LEASE}"):
            try:
                name = _read(path.with_name(_INFO)).name
                found.append((path.parent.parent.name, name, path.read_text()))
            except (FileNotFoundError, errors.DataLoss):  # coming, going, or damaged
                continue
        return found

    def activate(
        self,
        namespace: str,
        name: str,
        mounts: Sequence[MountMessage],
        labels: dict[str, str],
        *,
        lease: str = "",
        temporary: bool = False,
    ) -> ActivationInfo:
        """Make the mounts that are ours to make. Raises AlreadyExists, and what `plan` does; OSError. All or none.

        A `temporary` activation has all of them made, and leaves the client one bind mount of the last.
        """
        if not name:
            raise errors.InvalidArgument("mount activation needs a name: invalid argument")
        place = self._place(namespace, name)
        if (place / _INFO).exists():
            raise errors.AlreadyExists(f'mount activation "{name}": already exists')
        wanted = [Mount(each.type, each.source, each.options, each.target) for each in mounts]
        what = plan(wanted, everything=temporary)
        info = ActivationInfo(name=name, labels=labels)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            if lease:
                (place / _LEASE).write_text(lease)
            self._save(place, info)
            before: list[Place] = []
            for number, planned in enumerate(what.mounts):
                ready = formatted(planned, before)
                _prepare(ready)
                if number < what.active:
                    point = self._mount(place, info, number, ready)
                    before.append(Place(ready.mount, point))
                else:
                    info.system.append(_message(ready.mount))
            if temporary:
                info.system.append(MountMessage(type="bind", source=before[-1].point, options=["rbind"]))
            self._save(place, info)
        except BaseException:
            _take_back(place, info)
            raise
        return info

    def relabel(
        self, namespace: str, name: str, labels: dict[str, str], keys: Sequence[str]
    ) -> ActivationInfo:
        """Replace the labels that `keys` names; all of them when it is empty."""
        info = self.get(namespace, name)
        if not keys:
            info.labels.clear()
        for key in keys or labels:
            info.labels.pop(key, None)
            if labels.get(key):
                info.labels[key] = labels[key]
        self._save(self._place(namespace, name), info)
        return info

    def deactivate(self, namespace: str, name: str) -> None:
        """Raises NotFound; FailedPrecondition while one of the mounts is in use."""
        info = self.get(namespace, name)
        try:
            _take_back(self._place(namespace, name), info)
        except OSError as error:
            text = (error.strerror or str(error)).lower()
            raise errors.FailedPrecondition(
                f'mount activation "{name}": {text}: failed precondition'
            ) from None

    # -- small things ---------------------------------------------------------------------------------------

    def _place(self, namespace: str, name: str) -> Path:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / namespace / digest[:32]

    def _save(self, place: Path, info: ActivationInfo) -> None:
        partial = place / f"{_INFO}.new"
        partial.write_bytes(info.SerializeToString())
        partial.rename(place / _INFO)

    def _mount(self, place: Path, info: ActivationInfo, number: int, planned: Planned) -> str:
        kind, source, options, _ = planned.mount
        active = ActiveMount(mount=_message(planned.mount), mounted_at=timestamp(time.time_ns()))
        if kind == LOOP:
            active.mount_point = loop.attach(source, read_only="ro" in options)
            active.data[_DEVICE] = active.mount_point
        else:
            active.mount_point = str(place / str(number))
            os.mkdir(active.mount_point, 0o700)
        info.active.append(active)
        self._save(place, info)  # before the mount: a crash between the two leaves nothing unknown
        if kind != LOOP:
            mount_all([planned.mount], active.mount_point)
        return active.mount_point


def _read(path: Path) -> ActivationInfo:
    """Raises FileNotFoundError, DataLoss."""
    try:
        return ActivationInfo.FromString(path.read_bytes())
    except DecodeError:
        raise errors.DataLoss(
            f"{path} is damaged: unmount what is mounted beside it, and remove that folder: data loss"
        ) from None


def _take_back(place: Path, info: ActivationInfo) -> None:
    for active in reversed(info.active):
        if device := active.data.get(_DEVICE):
            loop.detach(device)
        elif os.path.isdir(active.mount_point):
            unmount_all(active.mount_point)
            os.rmdir(active.mount_point)
    shutil.rmtree(place)


def _message(mount: Mount) -> MountMessage:
    kind, source, options, target = mount
    return MountMessage(type=kind, source=source, options=options, target=target)


# -- what prefixes ask for ----------------------------------------------------------------------------------


def _prepare(planned: Planned) -> None:
    if planned.system is not None:
        _make_file_system(planned.system)
    for folder in planned.folders:
        _make_folder(folder)


def _make_folder(folder: Folder) -> None:
    os.makedirs(os.path.dirname(folder.path), exist_ok=True)
    try:
        os.mkdir(folder.path)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(folder.path).st_mode):
            raise
        return
    os.chown(folder.path, folder.uid, folder.gid)
    os.chmod(folder.path, folder.mode)


def _make_file_system(system: FileSystem) -> None:
    """In a new file; one that is there is taken for a file system that was made before."""
    if os.path.exists(system.path):
        return
    partial = f"{system.path}.new"
    with open(partial, "wb") as file:
        file.truncate(system.size)
    try:
        done = subprocess.run(
            [f"mkfs.{system.kind}", "-q", partial],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise errors.Error(f"mkfs.{system.kind} {system.path}: {done.stderr.strip()}: unknown")
        os.rename(partial, system.path)
    except FileNotFoundError:
        raise errors.FailedPrecondition(f"mkfs.{system.kind} is not installed: failed precondition") from None
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
