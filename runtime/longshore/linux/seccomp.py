"""seccomp: an OCI profile to BPF (by libseccomp), and loading the BPF.

libseccomp is opened only to compile; a filter once compiled is bytes, to be
kept and loaded without it.
"""

from __future__ import annotations

import os

from longshore.linux import files, libc
from longshore.linux.foreign import Function, dlopen, dlsym

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_LOG": 0x7FFC0000,
}
OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
# The kernel's AUDIT_ARCH_* where there is one; x32 is x86_64 with a bit in the system call number.
ARCHITECTURES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_MIPS": 0x00000008,
    "SCMP_ARCH_MIPS64": 0x80000008,
    "SCMP_ARCH_MIPS64N32": 0xA0000008,
    "SCMP_ARCH_MIPSEL": 0x40000008,
    "SCMP_ARCH_MIPSEL64": 0xC0000008,
    "SCMP_ARCH_MIPSEL64N32": 0xE0000008,
    "SCMP_ARCH_PPC": 0x00000014,
    "SCMP_ARCH_PPC64": 0x80000015,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_S390": 0x00000016,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
    "SCMP_ARCH_PARISC": 0x0000000F,
    "SCMP_ARCH_PARISC64": 0x8000000F,
}
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}

# Loading the filter gives a descriptor that tells of SCMP_ACT_NOTIFY.
NEW_LISTENER = 8

_EPERM = 1
_ENOSYS = 38
_X32_BIT = 0x40000000
_BAD_ARCH = 2
_NO_NEW_PRIVS = 3
_WITH_NUMBER = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")


class SeccompError(Exception):
    """A profile can't be compiled, or libseccomp isn't there."""


class _Library:
    """The few functions of libseccomp we need, by name."""

    def __init__(self) -> None:
        try:
            self._handle = dlopen("libseccomp.so.2", 2)
        except OSError as error:
            raise SeccompError(f"seccomp profile given, but libseccomp can't be loaded: {error}") from None

    def call(self, name: str, *arguments: object) -> int:
        """An int function; SeccompError on a negative result."""
        result = self.plain(name, *arguments)
        if result < 0:
            raise SeccompError(f"{name}: {os.strerror(-result)}")
        return result

    def plain(self, name: str, *arguments: object) -> int:
        """The same without the check."""
        result = self.word(name, *arguments) & 0xFFFFFFFF
        return result - (1 << 32) if result >> 31 else result

    def word(self, name: str, *arguments: object) -> int:
        """A function that returns a pointer."""
        function = Function(dlsym(self._handle, name))
        result: int = function(*arguments, *(0,) * (7 - len(arguments)))
        return result


def available() -> bool:
    """Whether this kernel filters system calls."""
    return os.path.exists("/proc/sys/kernel/seccomp")


def action(name: str, number: int | None = None) -> int:
    """An action as the kernel returns it; ``number`` is the errno (EPERM if none is given)."""
    if name not in ACTIONS:
        raise SeccompError(f"string {name} is not a valid action for seccomp")
    value = ACTIONS[name]
    if name in _WITH_NUMBER:
        value |= (_EPERM if number is None else number) & 0xFFFF
    return value


def compile(profile: dict[str, Any]) -> bytes:
    """linux.seccomp of config.json as BPF; SeccompError if something in it is unknown.

    Names of system calls that libseccomp doesn't know are skipped: profiles list
    the newest. System calls newer than everything the profile names get ENOSYS
    instead of an errno default, so that a program falls back to what it knows.
    """
    library = _Library()
    default = action(profile.get("defaultAction") or "", profile.get("defaultErrnoRet"))
    context = library.word("seccomp_init", default)
    if not context:
        raise SeccompError("seccomp_init failed")
    try:
        names = _architectures(library, context, profile.get("architectures") or ())
        library.call("seccomp_attr_set", context, _NO_NEW_PRIVS, 0)
        for group in profile.get("syscalls") or ():
            _add_group(library, context, group, default)
        filter = _export(library, context)
    finally:
        library.word("seccomp_release", context)
    return _unknown_calls(library, profile, names, default) + filter


def _architectures(library: _Library, context: int, wanted: Sequence[str]) -> list[str]:
    native = library.word("seccomp_arch_native") & 0xFFFFFFFF
    names = [name for name, token in ARCHITECTURES.items() if token == native]
    for name in wanted:
        if name not in ARCHITECTURES:
            raise SeccompError(f"string {name} is not a valid arch for seccomp")
        if ARCHITECTURES[name] == native:
            continue
        result = library.plain("seccomp_arch_add", context, ARCHITECTURES[name])
        if result not in (0, -17):  # EEXIST
            raise SeccompError(f"seccomp architecture {name}: {os.strerror(-result)}")
        names.append(name)
    return names


def _add_group(library: _Library, context: int, group: dict[str, Any], default: int) -> None:
    what = action(group.get("action") or "", group.get("errnoRet"))
    if what == default:
        return  # nothing to add, and libseccomp refuses it
    conditions = [_condition(argument) for argument in group.get("args") or ()]
    for name in group.get("names") or ():
        number = library.plain("seccomp_syscall_resolve_name", libc.text(name))
        if number == -1:
            continue
        for rule in _alternatives(conditions):
            packed = b"".join(rule)
            library.call("seccomp_rule_add_array", context, what, number, len(rule), packed)


def _condition(argument: dict[str, Any]) -> tuple[int, bytes]:
    operator = OPERATORS.get(argument.get("op") or "")
    if operator is None:
        raise SeccompError(f"string {argument.get('op')} is not a valid operator for seccomp")
    index, value, second = (
        argument.get("index") or 0,
        argument.get("value") or 0,
        argument.get("valueTwo") or 0,
    )
    mask = 2**64 - 1
    words = index.to_bytes(4, "little") + operator.to_bytes(4, "little")
    return index, words + (value & mask).to_bytes(8, "little") + (second & mask).to_bytes(8, "little")


def _alternatives(conditions: list[tuple[int, bytes]]) -> list[list[bytes]]:
    """All conditions in one rule; but libseccomp takes one per argument: with repeats each is a rule (an "or")."""
    indexes = [index for index, _ in conditions]
    if len(set(indexes)) == len(indexes):
        return [[packed for _, packed in conditions]]
    return [[packed] for _, packed in conditions]


def _export(library: _Library, context: int) -> bytes:
    fd = files.memfd("seccomp")
    try:
        library.call("seccomp_export_bpf", context, fd)
        return files.read_bounded_at(fd, 1 << 20)
    finally:
        os.close(fd)


def _instruction(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return code.to_bytes(2, "little") + bytes((true, false)) + (value & 0xFFFFFFFF).to_bytes(4, "little")


_LD_ABS, _JA, _JEQ, _JGT, _JGE, _RET = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06


def _unknown_calls(library: _Library, profile: dict[str, Any], names: Sequence[str], default: int) -> bytes:
    """The prologue that answers ENOSYS to system calls newer than the profile."""
    enosys = action("SCMP_ACT_ERRNO", _ENOSYS)
    if default & 0x7FFF0000 != ACTIONS["SCMP_ACT_ERRNO"] or default == enosys:
        return b""
    known = [name for group in profile.get("syscalls") or () for name in group.get("names") or ()]
    newest = {name: _newest(library, ARCHITECTURES[name], known) for name in names}
    sections: list[list[tuple[int, int, str]]] = []
    for name in names:
        if name == "SCMP_ARCH_X32" or newest[name] < 0:
            continue
        section = [(_LD_ABS, 0, "")]
        if name == "SCMP_ARCH_X86_64":
            x32 = newest.get("SCMP_ARCH_X32", -1)
            section.append((_JGE, _X32_BIT, "x32"))
            section.append((_JGT, newest[name], "enosys"))
            section.append((_JA, 0, "filter"))
            if x32 >= 0:
                section.append((_JGT, _X32_BIT | x32, "enosys"))
            section.append((_JA, 0, "filter"))
        else:
            section.append((_JGT, newest[name], "enosys"))
            section.append((_JA, 0, "filter"))
        sections.append([(_JEQ, ARCHITECTURES[name], "section"), *section])
    flat = [(_LD_ABS, 4, ""), *(step for section in sections for step in section), (_JA, 0, "filter")]
    return _assemble(flat, [len(section) for section in sections], enosys)


def _assemble(flat: list[tuple[int, int, str]], lengths: list[int], enosys: int) -> bytes:
    end = len(flat)  # where the ENOSYS return stands; the filter follows
    sizes = iter(lengths)
    code = []
    for position, (operation, value, target) in enumerate(flat):
        if operation == _JA:
            code.append(_instruction(_JA, end + 1 - position - 1))
        elif target == "section":
            code.append(_instruction(operation, value, 0, next(sizes) - 1))
        elif target == "x32":
            code.append(_instruction(operation, value, 2, 0))
        elif target == "enosys":
            code.append(_instruction(operation, value, end - position - 1, 0))
        else:
            code.append(_instruction(operation, value))
    return b"".join(code) + _instruction(_RET, enosys)


def _newest(library: _Library, token: int, names: Sequence[str]) -> int:
    newest = -1
    for name in names:
        number = library.plain("seccomp_syscall_resolve_name_arch", token, libc.text(name))
        # x32 numbers come with their bit, pseudo numbers (calls another architecture has) are negative.
        newest = max(newest, number & ~_X32_BIT if number >= 0 else -1)
    return newest


def flags_of(profile: dict[str, Any]) -> int:
    """The flags for seccomp(2)."""
    unknown = [name for name in profile.get("flags") or () if name not in FLAGS]
    if unknown:
        raise SeccompError(f"seccomp flag {unknown[0]} is not supported")
    return sum(FLAGS[name] for name in profile.get("flags") or ())


class Filter:
    """A filter ready to be loaded: calling it makes one system call and returns its result (-1: see errno)."""

    def __init__(self, code: bytes, flags: int) -> None:
        self._code = bytearray(code)
        program = bytearray(16)
        program[0:2] = (len(code) // 8).to_bytes(2, "little")
        program[8:16] = libc.address(self._code).to_bytes(8, "little")
        self._program = program
        self._arguments = (libc.NR["seccomp"], 1, flags, libc.buffer(program))
        self._listener = -1
        self._keep: tuple[bytearray, ...] = ()
        self._sendmsg: tuple[Any, ...] = ()

    def announce(self, connection: int, listener: int, text: bytes) -> None:
        """Have the load followed by a sendmsg of ``text`` and the filter's listener, which will be that descriptor."""
        data = bytearray(text)
        vector = bytearray(libc.address(data).to_bytes(8, "little") + len(data).to_bytes(8, "little"))
        # cmsghdr: length, SOL_SOCKET, SCM_RIGHTS, the descriptor, padding.
        words = ((20, 8), (1, 4), (1, 4), (listener, 4), (0, 4))
        rights = bytearray(b"".join(word.to_bytes(size, "little") for word, size in words))
        message = (0, 0, libc.address(vector), 1, libc.address(rights), len(rights), 0)
        header = bytearray(b"".join(word.to_bytes(8, "little") for word in message))
        self._keep = (data, vector, rights, header)
        self._listener = listener
        self._sendmsg = (libc.NR["sendmsg"], connection, libc.buffer(header), 0)

    def __call__(self) -> int:
        result = libc.raw(*self._arguments)
        if result == -1 or not self._sendmsg:
            return result
        return libc.raw(*self._sendmsg) if result == self._listener else -1
