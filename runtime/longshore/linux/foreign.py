"""C functions for `libc` and `seccomp`, by ``_ctypes`` itself: the Python half of ctypes costs milliseconds more."""

from __future__ import annotations

from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    addressof,
    dlopen,
    dlsym,
    get_errno,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "Byte",
    "CharPointer",
    "Function",
    "Pointer",
    "addressof",
    "dlopen",
    "dlsym",
    "get_errno",
    "syscall",
]


class _Long(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class Pointer(_SimpleCData):  # type: ignore[type-arg]
    """A machine word; as an argument it takes int, None, bytes, a ctypes array or byref()."""

    _type_ = "P"


class CharPointer(_SimpleCData):  # type: ignore[type-arg]
    """``char *``; ``CharPointer * n`` is an argv (see `strings`)."""

    _type_ = "z"


class Byte(_SimpleCData):  # type: ignore[type-arg]
    """One unsigned byte; ``Byte * n`` is a buffer type (see `buffer`)."""

    _type_ = "B"


class Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Long
    _argtypes_ = (Pointer,) * 7


def _resolve(name: str) -> Any:
    program: Any = None  # dlopen(NULL): what the interpreter is linked with
    return Function(dlsym(dlopen(program, 0), name))


syscall = _resolve("syscall")
