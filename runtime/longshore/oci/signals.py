"""Signal names (without the ``signal`` module, which imports enum)."""

from __future__ import annotations

from longshore.oci.errors import RuntimeFailure

_ORDERED = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU"
    " URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
NUMBERS = {name: number for number, name in enumerate(_ORDERED.split(), 1)}
NUMBERS |= {"IOT": 6, "CLD": 17, "POLL": 29, "RTMIN": 34, "RTMAX": 64}


def parse_signal(word: str) -> int:
    """``9``, ``KILL``, ``SIGKILL``, ``RTMIN+1``; RuntimeFailure if it is none of these."""
    if word.isdecimal():
        return int(word)
    name = word.upper().removeprefix("SIG")
    base, sign, offset = name.partition("+") if "+" in name else name.partition("-")
    if base in ("RTMIN", "RTMAX") and (not sign or offset.isdecimal()):
        number = NUMBERS[base] + (int(offset or 0) if sign != "-" else -int(offset or 0))
        if 34 <= number <= 64:
            return number
    elif name in NUMBERS:
        return NUMBERS[name]
    raise RuntimeFailure(f'unknown signal "{word}"')
