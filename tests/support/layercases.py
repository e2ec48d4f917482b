"""Sequences of layers, each about one thing that unpackers get wrong."""

from __future__ import annotations

import tarfile

from support.layers import directory, hardlink, layer, member, symlink

CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)

BASE = layer(
    directory("etc"),
    member("etc/passwd", data=b"root"),
    member("etc/group", data=b"wheel"),
    directory("tmp", mode=0o1777),
    directory("srv", mode=0o2750, uid=33, gid=34, xattrs={"user.color": b"blue"}),
    member("srv/old", data=b"old"),
    directory("usr"),
    directory("usr/bin"),
    member("usr/bin/tool", data=b"#!", mode=0o4755, uid=5, gid=6, xattrs={"security.capability": CAPABILITY}),
    symlink("bin", "usr/bin"),
    symlink("abs", "/usr/bin"),
    symlink("loop", "loop"),
    directory("a"),
    directory("a/b"),
    directory("a/b/c"),
    member("a/b/c/deep", data=b"deep"),
    member("a/b/file", data=b"f"),
)

CASES: dict[str, tuple[bytes, ...]] = {
    "a file goes": (BASE, layer(member("etc/.wh.passwd"))),
    "a directory goes": (BASE, layer(member(".wh.a"))),
    "a file deep down goes": (BASE, layer(member("a/b/c/.wh.deep"))),
    "goes and comes back": (BASE, layer(member(".wh.a")), layer(directory("a"), member("a/new", data=b"n"))),
    "goes and comes in one layer": (BASE, layer(member(".wh.a"), directory("a"), member("a/new"))),
    "comes and goes in one layer": (BASE, layer(directory("a"), member("a/new"), member(".wh.a"))),
    "a new file is not its own whiteout's victim": (
        BASE,
        layer(member("etc/passwd", data=b"2"), member("etc/.wh.passwd")),
    ),
    "whiteout of nothing": (BASE, layer(member("etc/.wh.nothing"), member("no/where/.wh.x"))),
    "opaque, marker first": (BASE, layer(directory("a"), member("a/.wh..wh..opq"), member("a/new"))),
    "opaque, marker last": (BASE, layer(directory("a"), member("a/new"), member("a/.wh..wh..opq"))),
    "opaque, nothing in it": (BASE, layer(member("a/.wh..wh..opq"))),
    "opaque with a directory that is kept": (
        BASE,
        layer(directory("a"), directory("a/b"), member("a/b/new"), member("a/.wh..wh..opq")),
    ),
    "opaque with a directory made on the way": (BASE, layer(member("a/b/c/new"), member("a/.wh..wh..opq"))),
    "opaque root": (BASE, layer(member(".wh..wh..opq"), member("etc/new"))),
    "opaque root, marker last": (BASE, layer(member("etc/new"), member(".wh..wh..opq"))),
    "below an opaque directory nothing shines through": (
        BASE,
        layer(member("a/.wh..wh..opq")),
        layer(member("a/b/c/new"), member("a/b/.wh.file")),
    ),
    "parents keep their attributes": (BASE, layer(member("tmp/x"), member("srv/x"), member("usr/bin/x"))),
    "parents out of nothing": (BASE, layer(member("new/parents/x"))),
    "a parent that is a link": (
        BASE,
        layer(member("bin/x", data=b"through"), member("abs/y", data=b"absolute")),
    ),
    "whiteout through a link": (BASE, layer(member("bin/.wh.tool"), member("bin/keep"))),
    "a link is replaced by a directory": (BASE, layer(directory("bin"), member("bin/x"))),
    "a file replaces a directory": (BASE, layer(member("a", data=b"file"))),
    "a file replaces a directory, then the reverse": (
        BASE,
        layer(member("a")),
        layer(directory("a"), member("a/x")),
    ),
    "file and directory in one layer": (BASE, layer(member("a"), directory("a"), member("a/x"))),
    "a directory replaces a file": (BASE, layer(directory("etc/passwd"), member("etc/passwd/x"))),
    "a directory changes": (BASE, layer(directory("etc", mode=0o700, uid=9))),
    "hard link in the layer": (layer(member("x", data=b"1"), hardlink("y", "x"), hardlink("d/z", "y")),),
    "hard link to a symlink": (layer(symlink("l", "/nowhere"), hardlink("m", "l")),),
    "hard link to itself in the past": (layer(member("x"), hardlink("y", "x"), hardlink("y", "x")),),
    "set ids, sticky bit": (
        layer(member("s", mode=0o6755, uid=3), directory("t", mode=0o3777), directory("t/u")),
    ),
    "devices and fifos": (
        layer(
            member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            member("disk", tarfile.BLKTYPE, devmajor=8, devminor=300, mode=0o660, gid=6),
            member("pipe", tarfile.FIFOTYPE, mode=0o622),
        ),
    ),
    "the same twice": (BASE, BASE),
    "root is left alone": (layer(directory("./", mode=0o700, uid=9), member("./x")),),
    "bookkeeping of aufs": (layer(directory(".wh..wh.plnk"), member(".wh..wh.plnk/1.2"), member("x")),),
}
