"""Is this a 64-bit system? There are no builds of onnxruntime, LiteRT and numpy for others."""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterator

from marram.doctor.finding import Finding, error, ok
from marram.doctor.machine import Machine

_KERNELS = ("x86_64", "aarch64", "arm64")


def check(machine: Machine) -> Iterator[Finding]:
    yield judge(platform.machine(), struct.calcsize("P") * 8)


def judge(kernel: str, bits: int) -> Finding:
    """kernel: what the kernel calls the processor. bits: of a pointer in this Python."""
    if bits == 64 and kernel in _KERNELS:
        return ok("userland", f"64 bits on {kernel}")
    if bits == 32 and kernel in _KERNELS:
        return error(
            "userland",
            f"32 bits, although the kernel is {kernel}",
            'install the 64-bit edition of the system (Raspberry Pi OS: "64-bit", Debian: arm64 or amd64); '
            "the runtimes of models are not built for 32 bits",
        )
    return error(
        "userland",
        f"{bits} bits on {kernel}",
        "Marram runs on x86-64 and 64-bit ARM: the runtimes of models are built for nothing else",
    )
