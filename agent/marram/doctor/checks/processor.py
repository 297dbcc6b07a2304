"""Which instructions for int8 models does the processor have?"""

from __future__ import annotations

from collections.abc import Iterator

from marram.device.thermal import read
from marram.doctor.finding import Finding, note, ok
from marram.doctor.machine import Machine

_DOT = {
    "avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "asimddp": "NEON dot product",
    "i8mm": "NEON int8 matrices",    "amx_int8": "AMX int8",
}  # fmt: skip
_WIDE = {"avx2": "AVX2", "asimd": "NEON"}


def check(machine: Machine) -> Iterator[Finding]:
    flags: set[str] = set()
    for line in read(machine.proc / "cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    dot = [name for flag, name in _DOT.items() if flag in flags]
    wide = [name for flag, name in _WIDE.items() if flag in flags]
    if dot:
        yield ok("int8", f"{', '.join(dot)}: int8 models run at full speed")
    elif wide:
        yield note(
            "int8",
            f"{', '.join(wide)} without dot products of int8: int8 models run, but not at their best",
            "nothing, if `marram status` shows no dropped windows; else a larger stride or a smaller model",
        )
    else:
        yield note(
            "int8",
            "the processor names no vector instructions",
            "expect slow models; measure with a recording",
        )
