"""Apply a layer: make a directory tree what the layer says, whatever the layer says.

The target is a directory fd. A parent directory is opened by openat2 with
RESOLVE_IN_ROOT, so that `..`, absolute names and symlinks end inside; from
there single names are used and never followed. Nothing of a layer is trusted:
what can't be done safely is InvalidLayer.

There are two kinds of target. In a *plain* tree a whiteout removes what it
names. In the *upper directory of an overlay* (give `lowers`) it becomes an
overlay whiteout, parents that exist in lower layers only are copied up with
their attributes, links in them are followed as the mount would, and the target
of a hard link is copied up: the result equals applying to the mounted overlay.

A whiteout speaks of the layers below. What the same layer brings stays,
whichever stands first in the archive; for that we note the names that we make,
by the identity of their directory.

Order of the acts on one object, as the kernel wants it: create, owner (drops
setuid and capabilities), mode, xattrs, times. Times of directories are set at
the end, after the last thing was created in them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from longshore.layers import overlay, tar, trees
from longshore.layers.errors import InvalidLayer
from longshore.layers.overlay import (
    OPAQUE_MARKER,
    WHITEOUT_META_PREFIX,
    WHITEOUT_PREFIX,
    XATTR_PREFIXES,
    Lowers,
)
from longshore.linux import files

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_OPEN = 128
_MAX_LINKS = 40
_MAX_NS = 1 << 63


def apply(
    reader: tar.Reader, root: int, lowers: Lowers | None = None, xattr_prefix: str = XATTR_PREFIXES[0]
) -> int:
    """Apply all entries of `reader` below the directory `root`; the number of entries.

    Sets this process's umask meanwhile: call it in a worker process. Raises
    InvalidLayer, or OSError with the path when the filesystem refuses.
    """
    old = os.umask(0)
    try:
        with _Applier(reader, root, lowers, xattr_prefix) as applier:
            return applier.run()
    finally:
        os.umask(old)


class _Directory:
    """An open parent: `names` made in it by this layer; `plain` if new things in it are simply ours."""

    __slots__ = ("fd", "held", "names", "plain")

    def __init__(self, fd: int, names: set[bytes], plain: bool) -> None:
        self.fd = fd
        self.names = names
        self.plain = plain
        self.held = False


class _Applier:
    def __init__(self, reader: tar.Reader, root: int, lowers: Lowers | None, xattr_prefix: str) -> None:
        self._reader = reader
        self._root = root
        self._lowers = lowers
        self._xattr_prefix = xattr_prefix
        self._open: dict[bytes, _Directory] = {}
        self._retired: list[int] = []
        self._through_links = False
        self._made: dict[trees.Identity, set[bytes]] = {}
        self._root_identity = trees.identity(os.fstat(root))
        self._holders = {self._root_identity}  # directories at or below which we made something
        self._times: dict[bytes, tuple[int, int]] = {}
        self._owner = (os.geteuid(), os.getegid())
        self._makers = {
            tar.REGULAR: self._file,
            tar.HARDLINK: self._hardlink,
            tar.SYMLINK: self._symlink,
            tar.CHARACTER: self._device,
            tar.BLOCK_DEVICE: self._device,
            tar.DIRECTORY: self._directory,
            tar.FIFO: self._fifo,
        }

    def __enter__(self) -> _Applier:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget_all()
        self._close_retired()

    def run(self) -> int:
        count = 0
        while (entry := self._reader.next()) is not None:
            count += 1
            try:
                self._entry(entry)
            except OSError as error:
                # Our calls name single components; the user wants the entry.
                text = (error.strerror or str(error)).removeprefix("openat2: ")
                raise OSError(error.errno, text, _shown(entry.name)) from None
        self._set_directory_times()
        return count

    def _entry(self, entry: tar.Entry) -> None:
        if self._retired:
            self._close_retired()
        path = clean(entry.name)
        if not path or (path.startswith(WHITEOUT_META_PREFIX) and path != OPAQUE_MARKER):
            # The root directory is not the layer's to change (it belongs to who made the snapshot), and
            # .wh..wh.plnk and the like are the bookkeeping of aufs.
            return
        parent, _, name = path.rpartition(b"/")
        if name.startswith(WHITEOUT_PREFIX):
            self._whiteout(parent, name)
            return
        directory = self._parent(parent)
        self._makers[entry.kind](directory, name, path, entry)
        directory.names.add(name)
        if self._through_links:
            # What was just made may hide a lower layer's link that a cached path went through.
            self._through_links = False
            self._forget_all()

    # -- kinds ----------------------------------------------------------------------------------------------

    def _file(self, directory: _Directory, name: bytes, path: bytes, entry: tar.Entry) -> None:
        mode = entry.mode
        try:
            fd = os.open(name, _CREATE, mode & 0o777, dir_fd=directory.fd)
        except FileExistsError:
            self._clear(directory, name)
            fd = os.open(name, _CREATE, mode & 0o777, dir_fd=directory.fd)
        try:
            if entry.sparse is None:
                self._write(fd, entry.stored)
            else:
                self._write_sparse(fd, entry)
            if not directory.plain or (entry.uid, entry.gid) != self._owner:
                os.fchown(fd, entry.uid, entry.gid)
                os.fchmod(fd, mode)
            elif mode & 0o7000:
                os.fchmod(fd, mode)
            if entry.xattrs:
                _set_xattrs(fd, entry)
            os.utime(fd, ns=_times(entry))
        finally:
            os.close(fd)

    def _write(self, fd: int, size: int) -> None:
        if not size:
            return
        whole = self._reader.whole(size)
        if whole is not None:
            _write_all(fd, whole)
            return
        for piece in self._reader.data():
            _write_all(fd, piece)

    def _write_sparse(self, fd: int, entry: tar.Entry) -> None:
        os.ftruncate(fd, entry.size)
        extents = iter(entry.sparse or ())
        left = 0
        for piece in self._reader.data():
            while piece:
                while not left:
                    offset, left = next(extents)
                    os.lseek(fd, offset, os.SEEK_SET)
                _write_all(fd, piece[:left])
                done = min(left, len(piece))
                left -= done
                piece = piece[done:]

    def _directory(self, directory: _Directory, name: bytes, path: bytes, entry: tar.Entry) -> None:
        fresh = True
        try:
            os.mkdir(name, entry.mode & 0o777, dir_fd=directory.fd)
        except FileExistsError:
            if _is_directory(directory.fd, name):
                fresh = False
            else:
                self._clear(directory, name)
                os.mkdir(name, entry.mode & 0o777, dir_fd=directory.fd)
                self._hide_below(directory.fd, name)
        self._times[path] = _times(entry)
        plain = fresh and directory.plain and (entry.uid, entry.gid) == self._owner
        if plain and not entry.mode & 0o7000 and not entry.xattrs:
            return
        fd = os.open(name, _OPEN_DIRECTORY, dir_fd=directory.fd)
        try:
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            if entry.xattrs:
                _set_xattrs(fd, entry)
        finally:
            os.close(fd)
        # Its attributes decide what things made in it inherit.
        self._forget(path)

    def _symlink(self, directory: _Directory, name: bytes, path: bytes, entry: tar.Entry) -> None:
        if not entry.linkname:
            raise InvalidLayer(f"{_shown(entry.name)}: symbolic link to nothing")
        try:
            os.symlink(entry.linkname, name, dir_fd=directory.fd)
        except FileExistsError:
            self._clear(directory, name)
            os.symlink(entry.linkname, name, dir_fd=directory.fd)
        if not directory.plain or (entry.uid, entry.gid) != self._owner:
            os.chown(name, entry.uid, entry.gid, dir_fd=directory.fd, follow_symlinks=False)
        if entry.xattrs:
            _set_xattrs(trees.fd_path(directory.fd, name), entry)
        os.utime(name, ns=_times(entry), dir_fd=directory.fd, follow_symlinks=False)

    def _device(self, directory: _Directory, name: bytes, path: bytes, entry: tar.Entry) -> None:
        if not entry.major and not entry.minor:
            raise InvalidLayer(
                f"{_shown(entry.name)}: device 0:0 is an overlay whiteout and not allowed in a layer"
            )
        kind = stat.S_IFCHR if entry.kind == tar.CHARACTER else stat.S_IFBLK
        self._node(directory, name, entry, kind, os.makedev(entry.major, entry.minor))

    def _fifo(self, directory: _Directory, name: bytes, path: bytes, entry: tar.Entry) -> None:
        self._node(directory, name, entry, stat.S_IFIFO, 0)

    def _node(self, directory: _Directory, name: bytes, entry: tar.Entry, kind: int, device: int) -> None:
        try:
            os.mknod(name, kind | entry.mode, device, dir_fd=directory.fd)
        except FileExistsError:
            self._clear(directory, name)
            os.mknod(name, kind | entry.mode, device, dir_fd=directory.fd)
        os.chown(name, entry.uid, entry.gid, dir_fd=directory.fd, follow_symlinks=False)
        os.chmod(name, entry.mode, dir_fd=directory.fd)
        if entry.xattrs:
            _set_xattrs(trees.fd_path(directory.fd, name), entry)
        os.utime(name, ns=_times(entry), dir_fd=directory.fd, follow_symlinks=False)

    def _hardlink(self, directory: _Directory, name: bytes, path: bytes, entry: tar.Entry) -> None:
        target_parent, _, target = entry.linkname.rstrip(b"/").rpartition(b"/")
        if target in (b"", b".", b".."):
            raise InvalidLayer(f"{_shown(entry.name)}: hard link to {_shown(entry.linkname)}")
        source = self._link_source(target_parent, target)
        if source.fd == directory.fd and target == name:
            raise InvalidLayer(f"{_shown(entry.name)}: hard link to itself")
        try:
            status = os.stat(target, dir_fd=source.fd, follow_symlinks=False)
        except FileNotFoundError:
            status = self._copy_up(target_parent, source, target)
        if overlay.is_whiteout(status):
            raise FileNotFoundError(errno.ENOENT, "hard link target is missing", target)
        if stat.S_ISDIR(status.st_mode):
            raise InvalidLayer(f"{_shown(entry.name)}: hard link to a directory")
        with contextlib.suppress(FileNotFoundError):
            old = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            if trees.identity(old) == trees.identity(status):
                return
            self._clear(directory, name)
        os.link(target, name, src_dir_fd=source.fd, dst_dir_fd=directory.fd, follow_symlinks=False)
        os.chown(name, entry.uid, entry.gid, dir_fd=directory.fd, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, entry.mode, dir_fd=directory.fd)
        if entry.xattrs:
            _set_xattrs(trees.fd_path(directory.fd, name), entry)
        os.utime(name, ns=_times(entry), dir_fd=directory.fd, follow_symlinks=False)

    def _link_source(self, parent: bytes, target: bytes) -> _Directory:
        try:
            return self._parent(parent.strip(b"/"), make=self._lowers is not None, hold=False)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "hard link target is missing", target) from None

    def _copy_up(self, parent: bytes, source: _Directory, name: bytes) -> os.stat_result:
        """A hard link to a file of a lower layer: bring the file into the upper directory first."""
        parents = None if self._lowers is None else self._merged_path(parent)
        if parents is not None:
            with self._find([*parents, name]) as found:
                if found is not None and not stat.S_ISDIR(found.status.st_mode):
                    trees.copy_object(found.directory, name, source.fd, name, found.status)
                    return os.stat(name, dir_fd=source.fd, follow_symlinks=False)
        raise FileNotFoundError(errno.ENOENT, "hard link target is missing", name)

    # -- whiteouts ------------------------------------------------------------------------------------------

    def _whiteout(self, parent: bytes, name: bytes) -> None:
        if name == OPAQUE_MARKER:
            self._opaque(parent)
            return
        if name.startswith(WHITEOUT_META_PREFIX):
            return
        victim = name[len(WHITEOUT_PREFIX) :]
        if victim in (b"", b".", b".."):
            raise InvalidLayer(f"invalid whiteout name: {_shown(name)}")
        # Like any entry it makes its parents, as it does in containerd.
        directory = self._parent(parent)
        if self._lowers is None:
            self._remove_below(directory, victim)
        else:
            self._cover(directory, parent, victim)

    def _opaque(self, parent: bytes) -> None:
        directory = self._parent(parent)
        for victim in _names(directory.fd):
            self._remove_below(directory, victim)
        if self._lowers is None:
            return
        if trees.identity(os.fstat(directory.fd)) == self._root_identity:
            # The kernel doesn't look for opaque on the root of a mount.
            for name in self._lowers.names():
                self._cover(directory, b"", name)
        else:
            self._hide_below(directory.fd, b".")

    def _cover(self, directory: _Directory, parent: bytes, victim: bytes) -> None:
        """Overlay: hide `victim` of the lower layers in `directory`, which is at `parent`."""
        self._remove_below(directory, victim)
        parents = self._merged_path(parent)
        if parents is None:
            return
        with self._find([*parents, victim]) as found:
            below = found is not None
        status = _lstat(directory.fd, victim)
        if not below:
            return
        if status is None:
            overlay.make_whiteout(directory.fd, victim)
        elif stat.S_ISDIR(status.st_mode):
            self._hide_below(directory.fd, victim)

    @contextlib.contextmanager
    def _find(self, parts: list[bytes]) -> Iterator[overlay.Found | None]:
        """What the lower layers show at `parts` through the upper directory as it is now."""
        assert self._lowers is not None
        if self._hidden(parts[:-1]):
            yield None
            return
        with self._lowers.find(parts) as found:
            yield found

    def _merged_path(self, path: bytes) -> list[bytes] | None:
        """`path` without links and `..`, as the mount would walk it; None if there is no such directory."""
        pending, walked, links = _parts(path)[::-1], list[bytes](), 0
        while pending:
            name = pending.pop()
            if name == b"..":
                del walked[-1:]
                continue
            with self._look([*walked, name]) as found:
                if found is None or not (
                    stat.S_ISDIR(found.status.st_mode) or stat.S_ISLNK(found.status.st_mode)
                ):
                    return None
                if stat.S_ISDIR(found.status.st_mode):
                    walked.append(name)
                    continue
                target = os.readlink(name, dir_fd=found.directory)
            links += 1
            if links > _MAX_LINKS:
                return None
            if target.startswith(b"/"):
                walked.clear()
            pending += _parts(target)[::-1]
        return walked

    @contextlib.contextmanager
    def _look(self, parts: list[bytes]) -> Iterator[overlay.Found | None]:
        """What the mount shows at `parts`, whose parents are directories there."""
        directory = None
        with contextlib.suppress(FileNotFoundError):
            directory = files.open_in_root(self._root, b"/".join(parts[:-1]) or b".", _PATH)
        status = None if directory is None else _lstat(directory, parts[-1])
        try:
            if directory is None or status is None:
                with self._find(parts) as found:
                    yield found
            else:
                yield None if overlay.is_whiteout(status) else overlay.Found(directory, status)
        finally:
            if directory is not None:
                os.close(directory)

    def _hidden(self, parents: list[bytes]) -> bool:
        walk = os.dup(self._root)
        try:
            for name in parents:
                status = _lstat(walk, name)
                if status is None:
                    return False
                if not stat.S_ISDIR(status.st_mode):
                    return True
                below = os.open(name, _PATH, dir_fd=walk)
                os.close(walk)
                walk = below
                if overlay.is_opaque(walk, self._xattr_prefix):
                    return True
            return False
        finally:
            os.close(walk)

    def _hide_below(self, directory: int, name: bytes) -> None:
        """Overlay: the directory `name` shows nothing of the lower layers."""
        if self._lowers is None:
            return
        fd = os.open(name, _OPEN_DIRECTORY, dir_fd=directory)
        try:
            overlay.set_opaque(fd, self._xattr_prefix)
        finally:
            os.close(fd)

    def _remove_below(self, directory: _Directory, name: bytes) -> None:
        """Remove `name`, but not what this layer made, at whatever depth that is."""
        if not self._is_ours(directory.fd, name, directory.names):
            self._clear(directory, name)
            return
        if not _is_directory(directory.fd, name):
            return
        stack = [os.open(name, _OPEN_DIRECTORY, dir_fd=directory.fd)]
        try:
            todo = [_names(stack[-1])]
            while stack:
                if not todo[-1]:
                    todo.pop()
                    os.close(stack.pop())
                    continue
                below = todo[-1].pop()
                made = self._made.get(trees.identity(os.fstat(stack[-1])), set())
                if not self._is_ours(stack[-1], below, made):
                    trees.remove(stack[-1], below, self._unmake)
                elif _is_directory(stack[-1], below):
                    stack.append(os.open(below, _OPEN_DIRECTORY, dir_fd=stack[-1]))
                    todo.append(_names(stack[-1]))
        finally:
            for fd in stack:
                os.close(fd)

    def _is_ours(self, directory: int, name: bytes, made: set[bytes]) -> bool:
        if name in made:
            return True
        status = _lstat(directory, name)
        return status is not None and trees.identity(status) in self._holders

    def _clear(self, directory: _Directory, name: bytes) -> None:
        """Make room for an entry of another kind."""
        self._forget_all()
        trees.remove(directory.fd, name, self._unmake)

    def _unmake(self, identity: trees.Identity) -> None:
        self._made.pop(identity, None)
        self._holders.discard(identity)

    # -- parents --------------------------------------------------------------------------------------------

    def _parent(self, path: bytes, make: bool = True, hold: bool = True) -> _Directory:
        """The directory at `path`, made with all that leads to it where `make`; cached.

        `hold`: something of this layer is going to stand in it.
        """
        directory = self._open.get(path)
        if directory is None:
            if len(self._open) >= _MAX_OPEN:
                self._forget_all()
            directory = self._open[path] = self._resolve(path, make)
        if hold and not directory.held:
            self._hold(directory.fd)
            directory.held = True
        return directory

    def _hold(self, fd: int) -> None:
        """Note that something of this layer will stand in the directory `fd`, and so below all its parents."""
        walk = os.dup(fd)
        try:
            while (identity := trees.identity(os.fstat(walk))) not in self._holders:
                self._holders.add(identity)
                above = os.open(b"..", _PATH, dir_fd=walk)
                os.close(walk)
                walk = above
        finally:
            os.close(walk)

    def _resolve(self, path: bytes, make: bool) -> _Directory:
        if not path:
            fd = self._root
        else:
            try:
                fd = files.open_in_root(self._root, path, os.O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                if not make:
                    raise
                fd = self._make_path(path)
            except NotADirectoryError:
                if self._lowers is None or not make:
                    raise
                fd = self._make_path(path)  # a whiteout stands in the way
        status = os.fstat(fd)
        plain = not status.st_mode & stat.S_ISGID and not _has_default_acl(fd)
        return _Directory(fd, self._names_of(fd), plain)

    def _names_of(self, fd: int) -> set[bytes]:
        return self._made.setdefault(trees.identity(os.fstat(fd)), set())

    def _make_path(self, path: bytes) -> int:
        """An O_PATH fd of `path`, walked part by part as the (merged) tree has it; what is missing is made."""
        pending = _parts(path)[::-1]
        trail = [os.dup(self._root)]
        walked: list[bytes] = []
        links = 0
        try:
            while pending:
                name = pending.pop()
                if name == b"..":
                    if walked:
                        walked.pop()
                        os.close(trail.pop())
                    continue
                link = self._step(trail[-1], walked, name)
                if link is None:
                    trail.append(os.open(name, _PATH, dir_fd=trail[-1]))
                    walked.append(name)
                    continue
                links += 1
                self._through_links = self._lowers is not None
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if link.startswith(b"/"):
                    walked.clear()
                    while len(trail) > 1:
                        os.close(trail.pop())
                pending += _parts(link)[::-1]
            return trail.pop()
        finally:
            for fd in trail:
                os.close(fd)

    def _step(self, directory: int, walked: list[bytes], name: bytes) -> bytes | None:
        """Make sure that `name` is a directory in `directory`; the text of the link if it is one."""
        status = _lstat(directory, name)
        covered = status is not None and self._lowers is not None and overlay.is_whiteout(status)
        if status is not None and not covered:
            if stat.S_ISLNK(status.st_mode):
                return os.readlink(name, dir_fd=directory)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
            return None
        if covered:
            os.unlink(name, dir_fd=directory)
            os.mkdir(name, 0o755, dir_fd=directory)
            self._hide_below(directory, name)
            return None
        if self._lowers is not None:
            with self._find([*walked, name]) as found:
                if found is not None:
                    return self._copy_up_directory(directory, walked, name, found)
        os.mkdir(name, 0o755, dir_fd=directory)
        return None

    def _copy_up_directory(
        self, directory: int, walked: list[bytes], name: bytes, found: overlay.Found
    ) -> bytes | None:
        if stat.S_ISLNK(found.status.st_mode):
            return os.readlink(name, dir_fd=found.directory)
        if not stat.S_ISDIR(found.status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
        os.mkdir(name, 0o700, dir_fd=directory)
        old = os.open(name, _OPEN_DIRECTORY, dir_fd=found.directory)
        try:
            new = os.open(name, _OPEN_DIRECTORY, dir_fd=directory)
            try:
                trees.copy_attributes(old, new, skip=XATTR_PREFIXES)
            finally:
                os.close(new)
        finally:
            os.close(old)
        path = b"/".join([*walked, name])
        self._times.setdefault(path, (found.status.st_atime_ns, found.status.st_mtime_ns))
        return None

    def _forget(self, path: bytes) -> None:
        directory = self._open.pop(path, None)
        if directory is not None and directory.fd != self._root:
            self._retired.append(directory.fd)

    def _forget_all(self) -> None:
        """Paths may lead elsewhere now. The entry at work still uses its descriptors: they are closed after it."""
        self._retired += [directory.fd for directory in self._open.values() if directory.fd != self._root]
        self._open.clear()

    def _close_retired(self) -> None:
        for fd in self._retired:
            os.close(fd)
        self._retired.clear()

    def _set_directory_times(self) -> None:
        for path, times in self._times.items():
            self._close_retired()
            parent, _, name = path.rpartition(b"/")
            try:
                directory = self._parent(parent, make=False, hold=False)
            except OSError as error:
                # Something else has taken its place in the meantime.
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                continue
            if _is_directory(directory.fd, name):
                os.utime(name, ns=times, dir_fd=directory.fd, follow_symlinks=False)


# -- small things -------------------------------------------------------------------------------------------


def clean(name: bytes) -> bytes:
    """A member's name as a relative path: no leading slash, no empty, `.` or `..` parts; b"" is the root."""
    name = name.removeprefix(b"./").strip(b"/")
    if b"//" not in name and b"/." not in name and not name.startswith(b"."):
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def _names(directory: int) -> list[bytes]:
    fd = os.open(b".", _OPEN_DIRECTORY, dir_fd=directory)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)


def _lstat(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_directory(directory: int, name: bytes) -> bool:
    status = _lstat(directory, name)
    return status is not None and stat.S_ISDIR(status.st_mode)


def _has_default_acl(directory: int) -> bool:
    try:
        return overlay.xattr(directory, "system.posix_acl_default") is not None
    except PermissionError:
        return True


def _write_all(fd: int, data: memoryview) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def _times(entry: tar.Entry) -> tuple[int, int]:
    """(atime, mtime) in ns; what the kernel couldn't store, or stands before 1970, becomes 0."""
    mtime = entry.mtime_ns if 0 <= entry.mtime_ns < _MAX_NS else 0
    atime = entry.atime_ns
    if atime is None or atime < mtime or atime >= _MAX_NS:
        atime = mtime
    return atime, mtime


def _set_xattrs(target: int | bytes, entry: tar.Entry) -> None:
    for key, value in (entry.xattrs or {}).items():
        if key.startswith(XATTR_PREFIXES):
            raise InvalidLayer(f"{_shown(entry.name)}: extended attribute {key} is not allowed in a layer")
        try:
            # An int target is an open file; a path ends in a name that must not be followed.
            os.setxattr(target, key, value, follow_symlinks=isinstance(target, int))
        except OSError as error:
            # As containerd does: the filesystem has no xattrs, or not of this class on this kind of file.
            user_on_special = error.errno == errno.EPERM and key.startswith("user.")
            if error.errno != errno.EOPNOTSUPP and not user_on_special:
                raise


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
