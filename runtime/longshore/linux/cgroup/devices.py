"""devices: which device nodes may be made, read and written (v1: devices.allow/deny; v2: an eBPF program)."""

from __future__ import annotations

from longshore.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_KINDS = ("a", "b", "c")

# What every container may use besides its configuration: mknod of anything, and the usual harmless nodes.
DEFAULT_RULES: tuple[dict[str, Any], ...] = (
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 8, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 0, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 9, "access": "rwm"},
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
    {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"},  # tun
)


def rules(resources: dict[str, Any]) -> list[dict[str, Any]]:
    """The configuration's rules and the defaults as their outcome: a rule for everything, then its exceptions.

    A later rule overrides an earlier one, and one for all devices all earlier
    ones; without any, everything is refused. Exceptions are sorted, as runc has them.
    """
    default = False
    exceptions: dict[tuple[str, int, int], set[str]] = {}
    for rule in [*(resources.get("devices") or ()), *DEFAULT_RULES]:
        allow, access = bool(rule.get("allow")), set(rule.get("access") or "rwm")
        if (rule.get("type") or "a") not in _KINDS:
            raise ValueError(f'invalid cgroup device type "{rule["type"]}"')
        if _is_all(rule):
            default = allow
            exceptions.clear()
            continue
        key = (rule.get("type") or "a", _number(rule, "major"), _number(rule, "minor"))
        kept = exceptions.setdefault(key, set())
        if allow == default:
            kept -= access
        else:
            kept |= access
    outcome: list[dict[str, Any]] = [{"allow": default, "access": "rwm"}]
    for (kind, major, minor), access in sorted(exceptions.items(), key=lambda item: item[0]):
        word = "".join(letter for letter in "rwm" if letter in access)
        if word:
            outcome.append(
                {"allow": not default, "type": kind, "major": major, "minor": minor, "access": word}
            )
    return outcome


def v1(wanted: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """`rules` as writes."""
    return [
        ("devices.allow" if rule["allow"] else "devices.deny", "a" if _is_all(rule) else line(rule))
        for rule in wanted
    ]


def _is_all(rule: dict[str, Any]) -> bool:
    everything = rule.get("type") in (None, "", "a") and set(rule.get("access") or "rwm") == set("rwm")
    return everything and all(_number(rule, key) < 0 for key in ("major", "minor"))


def line(rule: dict[str, Any]) -> str:
    """A rule as the kernel reads it: ``c 1:3 rwm``."""
    return f"{rule.get('type') or 'a'} {_word(rule, 'major')}:{_word(rule, 'minor')} {rule.get('access') or 'rwm'}"


def _word(rule: dict[str, Any], key: str) -> str:
    number = _number(rule, key)
    return "*" if number < 0 else str(number)


def _number(rule: dict[str, Any], key: str) -> int:
    value = rule.get(key)
    return -1 if value is None or value < 0 else int(value)


# eBPF: a program over struct bpf_cgroup_dev_ctx {u32 access_type; u32 major; u32 minor}, where
# access_type is access << 16 | type.

_BPF_MKNOD, _BPF_READ, _BPF_WRITE = 1, 2, 4
_ACCESS = {"m": _BPF_MKNOD, "r": _BPF_READ, "w": _BPF_WRITE}
_TYPE = {"b": 1, "c": 2}
_LDX_W, _MOV_REG32, _MOV_IMM32, _AND_IMM32, _RSH_IMM32 = 0x61, 0xBC, 0xB4, 0x54, 0x74
_JNE_IMM, _JNE_REG, _EXIT, _MOV_IMM = 0x55, 0x5D, 0x95, 0xB7


def _op(code: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return (
        bytes((code, dst | src << 4))
        + offset.to_bytes(2, "little")
        + (value & 0xFFFFFFFF).to_bytes(4, "little")
    )


def program(wanted: Sequence[dict[str, Any]]) -> bytes:
    """The rules as eBPF; the last rule that matches decides, so they are tried backwards. Default: refuse."""
    # r2 = type, r3 = access, r4 = major, r5 = minor
    code = [
        _op(_LDX_W, 2, 1, 0),
        _op(_MOV_REG32, 3, 2),
        _op(_AND_IMM32, 2, value=0xFFFF),
        _op(_RSH_IMM32, 3, value=16),
        _op(_LDX_W, 4, 1, 4),
        _op(_LDX_W, 5, 1, 8),
    ]
    for rule in reversed(wanted):
        code += _match(rule)
        if _is_all(rule):
            return b"".join(code)
    code += [_op(_MOV_IMM, 0, value=0), _op(_EXIT)]
    return b"".join(code)


def _match(rule: dict[str, Any]) -> list[bytes]:
    access = 0
    for letter in rule.get("access") or "rwm":
        access |= _ACCESS[letter]
    tests: list[tuple[int, int, int, int]] = []  # (code, dst, src, value): jump to the next rule if true
    pre: list[bytes] = []
    if rule.get("type") not in (None, "", "a"):
        tests.append((_JNE_IMM, 2, 0, _TYPE[rule["type"]]))
    if access != 7:
        # Matches only if the rule covers all that is asked: (asked & rule) == asked.
        pre = [_op(_MOV_REG32, 1, 3), _op(_AND_IMM32, 1, value=access)]
        tests.append((_JNE_REG, 1, 3, 0))
    for register, key in ((4, "major"), (5, "minor")):
        number = rule.get(key)
        if number is not None and number >= 0:
            tests.append((_JNE_IMM, register, 0, number))
    code = list(pre)
    for index, (op, dst, src, value) in enumerate(tests):
        code.append(_op(op, dst, src, len(tests) - index - 1 + 2, value))
    return [*code, _op(_MOV_IMM, 0, value=1 if rule.get("allow") else 0), _op(_EXIT)]


_BPF = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH = 5, 8, 9
_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6
_F_ALLOW_MULTI = 2


def attach(cgroup_fd: int, wanted: Sequence[dict[str, Any]]) -> int:
    """Load the rules and attach them to a v2 cgroup; the program's fd. The kernel keeps it until rmdir."""
    instructions = bytearray(program(wanted))
    licence = bytearray(b"Apache\0")
    attributes = bytearray(128)
    attributes[0:4] = _PROG_TYPE_CGROUP_DEVICE.to_bytes(4, "little")
    attributes[4:8] = (len(instructions) // 8).to_bytes(4, "little")
    attributes[8:16] = libc.address(instructions).to_bytes(8, "little")
    attributes[16:24] = libc.address(licence).to_bytes(8, "little")
    program_fd = _bpf(_PROG_LOAD, attributes)
    request = bytearray(128)
    request[0:4] = cgroup_fd.to_bytes(4, "little")
    request[4:8] = program_fd.to_bytes(4, "little")
    request[8:12] = _CGROUP_DEVICE.to_bytes(4, "little")
    request[12:16] = _F_ALLOW_MULTI.to_bytes(4, "little")
    _bpf(_PROG_ATTACH, request)
    return program_fd


def detach(cgroup_fd: int, program_fd: int) -> None:
    """Take a program off a v2 cgroup."""
    request = bytearray(128)
    request[0:4] = cgroup_fd.to_bytes(4, "little")
    request[4:8] = program_fd.to_bytes(4, "little")
    request[8:12] = _CGROUP_DEVICE.to_bytes(4, "little")
    _bpf(_PROG_DETACH, request)


def _bpf(command: int, attributes: bytearray) -> int:
    result = libc.raw(_BPF[libc.MACHINE], command, libc.buffer(attributes), len(attributes))
    if result == -1:
        raise libc.oserror("bpf")
    return result
