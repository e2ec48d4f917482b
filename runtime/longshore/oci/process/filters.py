"""Compiled seccomp filters, kept by the hash of their profile: libseccomp needs 14 ms, a file 0.1."""

from __future__ import annotations

import marshal
import os

from longshore.linux import files, libc, seccomp
from longshore.oci.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CACHE = "/run/longshore/seccomp"
_VERSION = b"1"
_ENTRIES = 512


def compiled(profile: dict[str, Any], cache: str = CACHE) -> bytes:
    """The BPF of a profile, from the cache or compiled now; RuntimeFailure if it can't be compiled."""
    if not seccomp.available():
        raise RuntimeFailure("config provided but seccomp not supported")
    path = f"{cache}/{_key(profile)}"
    found = _read(cache, path)
    if found:
        return found
    try:
        code = seccomp.compile(profile)
    except seccomp.SeccompError as error:
        raise RuntimeFailure(str(error)) from None
    _write(cache, path, code)
    return code


def _key(profile: dict[str, Any]) -> str:
    try:
        from _sha2 import sha256  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from _sha256 import sha256  # type: ignore[import-not-found,unused-ignore]
    # marshal before version 3 writes no references: the same profile gives the same bytes.
    data = _VERSION + libc.MACHINE.encode() + marshal.dumps(profile, 2)
    digest: str = sha256(data).hexdigest()
    return digest


def _trusted(directory: str) -> bool:
    info = os.stat(directory)
    return info.st_uid == os.geteuid() and not info.st_mode & 0o022


def _read(cache: str, path: str) -> bytes:
    try:
        code = files.read_bounded(path) if _trusted(cache) else b""
    except OSError:
        return b""
    return code if len(code) % 8 == 0 else b""


def _write(cache: str, path: str, code: bytes) -> None:
    try:
        os.makedirs(cache, 0o700, exist_ok=True)
        if _trusted(cache) and len(os.listdir(cache)) < _ENTRIES:
            files.replace_file(path, code)
    except OSError:
        pass  # a cache that can't be written only costs time
