"""Seccomp profiles compiled, and the prologue for system calls newer than the profile, on a BPF machine of our own."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from longshore.linux import libc, seccomp
from longshore.oci.errors import RuntimeFailure
from longshore.oci.process import filters

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "syscalls": [
        {"names": ["read", "write", "openat2", "no_such_call_at_all"], "action": "SCMP_ACT_ALLOW"},
        {
            "names": ["personality"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}],
        },
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97},
    ],
}

pytestmark = pytest.mark.skipif(libc.MACHINE != "x86_64", reason="the numbers here are x86's")


def run(code: bytes, arch: int, number: int, *arguments: int) -> int:
    """Classic BPF over struct seccomp_data."""
    words = [*arguments, *(0,) * (6 - len(arguments))]
    data = number.to_bytes(4, "little") + arch.to_bytes(4, "little") + bytes(8)
    data += b"".join(word.to_bytes(8, "little") for word in words)
    accumulator, position = 0, 0
    while True:
        here = code[position * 8 : position * 8 + 8]
        operation, true, false = int.from_bytes(here[:2], "little"), here[2], here[3]
        value = int.from_bytes(here[4:], "little")
        position += 1
        if operation == 0x20:
            accumulator = int.from_bytes(data[value : value + 4], "little")
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x05:
            position += value
        elif operation == 0x06:
            return value
        else:
            test = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value}
            test[0x45] = bool(accumulator & value)
            position += true if test[operation] else false


@pytest.fixture(scope="module")
def code() -> bytes:
    try:
        return seccomp.compile(PROFILE)
    except seccomp.SeccompError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("arch", "number", "arguments", "answer"),
    [
        (X86_64, 0, (), ALLOW),  # read
        (X86_64, 2, (), EPERM),  # open: known, not listed
        (X86_64, 437, (), ALLOW),  # openat2, the newest that is named
        (X86_64, 438, (), ENOSYS),
        (X86_64, 5000, (), ENOSYS),
        (X86_64, 135, (8,), ALLOW),  # personality(8)
        (X86_64, 135, (9,), EPERM),
        (X86_64, 41, (), 0x00050000 | 97),  # socket
        (X86_64, 0x40000000, (), ALLOW),  # x32 read
        (X86_64, 0x40000000 | 2, (), EPERM),
        (X86_64, 0x40000000 | 5000, (), ENOSYS),
        (I386, 3, (), ALLOW),  # read
        (I386, 5, (), EPERM),  # open
        (I386, 5000, (), ENOSYS),
    ],
)
def test_filter(code: bytes, arch: int, number: int, arguments: tuple[int, ...], answer: int) -> None:
    assert run(code, arch, number, *arguments) == answer


def test_no_prologue_without_an_errno_default() -> None:
    assert seccomp.compile({**PROFILE, "defaultAction": "SCMP_ACT_KILL_PROCESS"})[:2] == b"\x20\x00"
    enosys = {**PROFILE, "defaultErrnoRet": 38}
    assert run(seccomp.compile(enosys), X86_64, 2) == ENOSYS


@pytest.mark.parametrize(
    "spoiled",
    [
        {"defaultAction": "SCMP_ACT_NOPE"},
        {"architectures": ["SCMP_ARCH_PDP11"]},
        {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOPE"}]},
        {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "op": "NOPE"}]}]},
    ],
)
def test_what_is_unknown_is_an_error(spoiled: dict[str, Any]) -> None:
    with pytest.raises(seccomp.SeccompError):
        seccomp.compile({**PROFILE, **spoiled})
    with pytest.raises(seccomp.SeccompError):
        seccomp.flags_of({"flags": ["NOPE"]})


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: bytes) -> None:
    cache = tmp_path / "cache"
    assert filters.compiled(PROFILE, str(cache)) == code
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    monkeypatch.setattr(seccomp, "compile", lambda profile: pytest.fail("it was compiled again"))
    assert filters.compiled(PROFILE, str(cache)) == code


def test_a_cache_that_others_may_write_is_not_believed(tmp_path: Path, code: bytes) -> None:
    cache = tmp_path / "cache"
    filters.compiled(PROFILE, str(cache))
    (entry,) = cache.iterdir()
    entry.write_bytes(bytes(8))
    assert filters.compiled(PROFILE, str(cache)) == bytes(8)
    cache.chmod(0o777)
    assert filters.compiled(PROFILE, str(cache)) == code


def test_a_profile_on_a_kernel_without_seccomp_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "available", lambda: False)
    with pytest.raises(RuntimeFailure, match="seccomp not supported"):
        filters.compiled(PROFILE)
