"""Entries for forked workers: contexts are unpacked, hashed and copied here, never in dockerd itself."""

from __future__ import annotations

import bz2
import errno
import hashlib
import lzma
import os
import posixpath
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from longshore.dockerd.archive.unpack import Refused as BadArchive
from longshore.dockerd.archive.unpack import Unpacker, Wishes
from longshore.dockerd.build import accounts, patterns, trees
from longshore.dockerd.build.accounts import Owner
from longshore.layers import compression, tar, worker
from longshore.layers.errors import InvalidLayer
from longshore.linux import files

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_HEAD = 512
_BLOCK = 1 << 18
_MAX_DOCKERFILE = 16 << 20
_ROOT = Owner(0, 0)


class Refused(Exception):
    """The message is for the client as it stands."""


# -- contexts -----------------------------------------------------------------------------------------------


def unpack(arguments: dict[str, Any], fds: Sequence[int]) -> None:
    """The archive on ``fds[0]``, compressed or not, into the empty directory ``root``; read to its end."""
    root = os.open(arguments["root"], _DIRECTORY)
    _untar(fds[0], root)
    while os.read(fds[0], _BLOCK):
        pass


def dockerfile(arguments: dict[str, Any], fds: Sequence[int]) -> str:
    """The text of the Dockerfile ``path`` in the context ``root``; what .dockerignore leaves out of both is removed.

    Raises Refused with the original's words.
    """
    root = os.open(arguments["root"], _DIRECTORY)
    path = arguments["path"]
    if path == "Dockerfile" and not _exists(root, path) and _exists(root, "dockerfile"):
        path = "dockerfile"
    text = _text(root, path)
    if text is None:
        raise Refused(f"Cannot locate specified Dockerfile: {path}")
    if not text:
        raise Refused(f"the Dockerfile ({path}) cannot be empty")
    ignore = patterns.ignore_file(_text(root, ".dockerignore") or "")
    for name in (".dockerignore", path):
        if patterns.ignored(name, ignore):
            _remove(root, name)
    return text


def _exists(root: int, path: str) -> bool:
    try:
        os.close(trees.open_source(root, path))
    except OSError:
        return False
    return True


def _text(root: int, path: str) -> str | None:
    try:
        fd = files.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Refused(f"read {path}: is no regular file")
        return files.read_fd(fd, _MAX_DOCKERFILE).decode(errors="replace")
    finally:
        os.close(fd)


def _remove(root: int, path: str) -> None:
    folder, _, name = path.rpartition("/")
    try:
        fd = files.open_in_root(root, folder or "/", _DIRECTORY)
        os.unlink(name, dir_fd=fd)
        os.close(fd)
    except OSError:
        pass


# -- archives -----------------------------------------------------------------------------------------------


def _untar(fd: int, root: int) -> None:
    Unpacker(tar.Reader(_chunks(fd).__next__), root, "/", Wishes()).run()


def _chunks(fd: int) -> Iterator[bytes]:
    """Decompressed, then b"" for ever."""
    head = b""
    while len(head) < 6 and (more := os.read(fd, 6 - len(head))):
        head += more
    rest = _raw(fd, head)
    if head.startswith(b"BZh"):
        yield from _filtered(rest, bz2.BZ2Decompressor)
    elif head.startswith(b"\xfd7zXZ\x00"):
        yield from _filtered(rest, lzma.LZMADecompressor)
    else:
        yield from compression.decompressed(fd, head=head)
    while True:
        yield b""


def _raw(fd: int, head: bytes) -> Iterator[bytes]:
    yield head
    while block := os.read(fd, _BLOCK):
        yield block


def _filtered(blocks: Iterator[bytes], make: Callable[[], Any]) -> Iterator[bytes]:
    """Through a decompressor; several streams may follow each other."""
    decompressor = make()
    for block in blocks:
        while block:
            if decompressor.eof:
                decompressor = make()
            try:
                data = decompressor.decompress(block)
            except (OSError, EOFError, lzma.LZMAError) as error:
                raise InvalidLayer(f"compressed archive: {error}") from None
            if data:
                yield data
            block = decompressor.unused_data if decompressor.eof else b""


def is_archive(fd: int) -> bool:
    """Whether a regular file begins as a tar does, perhaps below a compression."""
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        data = b""
        for chunk in _chunks(fd):
            data += chunk
            if not chunk or len(data) >= _HEAD:
                break
        blocks = iter((data[:_HEAD], b""))
        return len(data) >= _HEAD and tar.Reader(lambda: next(blocks, b"")).next() is not None
    except (InvalidLayer, OSError, ValueError):
        return False
    finally:
        os.lseek(fd, 0, os.SEEK_SET)


# -- what is copied -----------------------------------------------------------------------------------------


def scan(arguments: dict[str, Any], fds: Sequence[int]) -> list[list[str]]:
    """[path, hash] of each thing that ``sources`` name in the context: "file:..." or "dir:...".

    root, or mounts with scratch   where the sources are
    image                          whether that is an image: its own words for what is missing

    Raises Refused with the original's words.
    """
    root = _opened(arguments["root"], arguments["mounts"], arguments["scratch"])
    found = []
    for source in arguments["sources"]:
        path = source.removeprefix("/").removeprefix("./")
        paths = _matching(root, path) if patterns.has_wildcards(path) else [path]
        found += [[each, _hash(root, each, arguments["image"])] for each in paths]
    if not found:
        raise Refused("no source files were specified")
    return found


def _matching(root: int, pattern: str) -> list[str]:
    try:
        expression = patterns.glob(pattern)
    except ValueError as error:
        raise Refused(str(error)) from None
    return list(trees.walk(root, lambda path: expression.fullmatch(path) is not None))


def _hash(root: int, path: str, image: bool) -> str:
    if posixpath.normpath(path).split("/")[0] == "..":
        raise Refused(f"forbidden path outside the build context: {path} ()")
    try:
        fd = trees.open_source(root, path)
    except (FileNotFoundError, NotADirectoryError):
        words = f"stat {path}: file does not exist"
        raise Refused(
            words if image else f"file not found in build context or excluded by .dockerignore: {words}"
        ) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISDIR(status.st_mode):
            return f"file:{_digest_file(fd, path, status)}"
        directory = os.open(f"/proc/self/fd/{fd}", _DIRECTORY)
        digests = [_digest_below(directory, each) for each in trees.walk(directory, lambda _: True)]
        os.close(directory)
        return f"dir:{hashlib.sha256(','.join(sorted(digests)).encode()).hexdigest()}"
    finally:
        os.close(fd)


def _digest_file(fd: int, path: str, status: os.stat_result) -> str:
    digest = hashlib.sha256(_description(path, status))
    if stat.S_ISREG(status.st_mode):
        data = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _feed(digest, data)
        finally:
            os.close(data)
    return digest.hexdigest()


def _digest_below(directory: int, path: str) -> str:
    status = os.stat(path, dir_fd=directory, follow_symlinks=False)
    digest = hashlib.sha256(_description(path, status))
    if stat.S_ISLNK(status.st_mode):
        digest.update(os.fsencode(os.readlink(path, dir_fd=directory)))
    elif stat.S_ISREG(status.st_mode):
        data = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            _feed(digest, data)
        finally:
            os.close(data)
    return digest.hexdigest()


def _feed(digest: Any, data: int) -> None:
    try:
        digest.update(os.getxattr(data, "security.capability"))
    except OSError:
        pass
    while block := os.read(data, _BLOCK):
        digest.update(block)


def _description(path: str, status: os.stat_result) -> bytes:
    """Name, type, mode and size: neither times nor owners decide over the cache."""
    return b"%s\0%o\0%d\0%d\0" % (os.fsencode(path), status.st_mode, status.st_size, status.st_rdev)


# -- copies -------------------------------------------------------------------------------------------------


def copy(arguments: dict[str, Any], fds: Sequence[int]) -> None:
    """COPY and ADD into the image that ``target`` mounts.

    target, scratch      the image's writable mounts, and a directory to mount them on
    root, mounts, other  the sources: a directory, or mounts and a directory to mount them on
    paths                of the sources, as `scan` told them
    names                what each is called if it is put into a directory
    place                where to, absolute; with a slash at its end always a directory
    chown, chmod         as written, or ""
    keep_owner           leave the sources' owners
    extract              unpack archives (ADD)

    Raises Refused with the original's words.
    """
    source = _opened(arguments["root"], arguments["mounts"], arguments["other"])
    target = _opened("", arguments["target"], arguments["scratch"])
    how = _how(target, arguments)
    old = os.umask(0)
    for path, name in zip(arguments["paths"], arguments["names"], strict=True):
        try:
            _copy_one(source, path, name, target, arguments["place"], how, arguments["extract"])
        except (InvalidLayer, BadArchive, OSError) as error:
            raise Refused(f"failed to copy files: {_words(error)}") from None
    os.umask(old)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename is not None else ""
        return f"{name}{error.strerror.removeprefix('openat2: ').lower()}"
    return str(error)


def _how(target: int, arguments: dict[str, Any]) -> trees.How:
    try:
        owner = accounts.owner(target, arguments["chown"]) if arguments["chown"] else None
    except ValueError as error:
        raise Refused(f"unable to convert uid/gid chown string to host mapping: {error}") from None
    if owner is None and not arguments["keep_owner"]:
        owner = _ROOT
    try:
        mode = int(arguments["chmod"], 8) & 0o7777 if arguments["chmod"] else None
    except ValueError:
        raise Refused(f"invalid chmod parameter: '{arguments['chmod']}'. it should be octal string") from None
    return trees.How(owner, mode)


def _copy_one(
    source: int, path: str, name: str, target: int, place: str, how: trees.How, extract: bool
) -> None:
    thing = trees.open_source(source, path)
    try:
        if stat.S_ISDIR(os.fstat(thing).st_mode):
            _copy_directory(thing, target, place, how)
        elif not (extract and _extracted(thing, target, place)):
            _copy_file(thing, name, target, place, how)
    finally:
        os.close(thing)


def _copy_directory(thing: int, target: int, place: str, how: trees.How) -> None:
    source = os.open(f"/proc/self/fd/{thing}", _DIRECTORY)
    folder, _ = trees.folder(target, place, how.owner)
    trees.copy_below(source, folder, how)
    os.close(source)
    os.close(folder)


def _extracted(thing: int, target: int, place: str) -> bool:
    if not stat.S_ISREG(os.fstat(thing).st_mode):
        return False
    archive = os.open(f"/proc/self/fd/{thing}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not is_archive(archive):
            return False
        folder, _ = trees.folder(target, place, None)
        _untar(archive, folder)
        os.close(folder)
        return True
    finally:
        os.close(archive)


def _copy_file(thing: int, name: str, target: int, place: str, how: trees.How) -> None:
    # A directory that is there, or a path that says it is to be one.
    try:
        folder = files.open_in_root(target, place, _DIRECTORY)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        if place.endswith("/"):
            folder, _ = trees.folder(target, place, how.owner)
        else:
            folder, name = trees.place(target, place, how.owner)
    trees.copy_file(thing, folder, name, how)
    os.close(folder)


def make_folder(arguments: dict[str, Any], fds: Sequence[int]) -> bool:
    """WORKDIR: the directory ``path`` in the image that ``target`` mounts on ``scratch``; whether it had to be made."""
    target = _opened("", arguments["target"], arguments["scratch"])
    try:
        fd, made = trees.folder(target, arguments["path"], _ROOT)
    except NotADirectoryError:
        raise Refused(f"Cannot mkdir: {arguments['path']} is not a directory") from None
    os.close(fd)
    return made


def _opened(path: str, mounts: Sequence[Sequence[Any]], scratch: str) -> int:
    """A root: the directory `path`, or what the mounts show."""
    if not path:
        path = worker.mounted_at(worker.mounts_of(mounts), scratch)
    return os.open(path, _DIRECTORY)
