"""Prefixes, options and templates of mounts to be activated."""

from __future__ import annotations

import pytest

from longshore.api import errors
from longshore.containerd.mounts.plan import FileSystem, Folder, Place, formatted, plan
from longshore.linux.mounts import Mount


def test_what_is_referred_to_is_active() -> None:
    found = plan(
        [
            Mount("ext4", "/dev/a"),
            Mount("bind", "/b", ["rbind"]),
            Mount("format/overlay", "overlay", ["lowerdir={{ overlay 1 0 }}"]),
            Mount("format/bind", "{{source 0}}"),
        ]
    )
    assert found.active == 2 and [each.mount[0] for each in found.mounts] == [
        "ext4",
        "bind",
        "overlay",
        "bind",
    ]
    before = [Place(found.mounts[0].mount, "/m/0"), Place(found.mounts[1].mount, "/m/1")]
    assert formatted(found.mounts[2], before).mount[2] == ("lowerdir=/m/1:/m/0",)
    assert formatted(found.mounts[3], before).mount[1] == "/dev/a"


def test_loops_are_active_and_options_of_ours_are_taken_out() -> None:
    options = ["ro", "X-containerd.mkfs.size=2m", "X-containerd.mkdir.path=/x/y:700:1:2"]
    found = plan([Mount("mkfs/mkdir/loop", "/img", options)])
    only = found.mounts[0]
    assert found.active == 1 and only.mount == Mount("loop", "/img", ["ro"])
    assert only.system == FileSystem("/img", "ext4", 2 << 20) and only.folders == (
        Folder("/x/y", 0o700, 1, 2),
    )


def test_plain_mounts_are_nobodys_business() -> None:
    with pytest.raises(errors.Unimplemented):
        plan([Mount("bind", "/a", ["ro"])])
    with pytest.raises(errors.Unimplemented):
        plan([])


@pytest.mark.parametrize(
    "mount",
    [
        Mount("what/bind", "/a"),
        Mount("format/bind", "{{ mount 0 }}"),
        Mount("format/bind", "{{ nothing 0 }}"),
        Mount("format/bind", "{{ overlay 0 }}"),
        Mount("mkfs/loop", "/a"),
        Mount("mkfs/loop", "/a", ["X-containerd.mkfs.size=1m", "X-containerd.mkfs.fs=../../bin/sh"]),
        Mount("mkdir/bind", "/a", ["X-containerd.mkdir.path=relative"]),
        Mount("mkdir/bind", "/a", ["X-containerd.mkdir.path=/a:99"]),
    ],
)
def test_nonsense_is_refused(mount: Mount) -> None:
    with pytest.raises(errors.InvalidArgument):
        plan([mount])
