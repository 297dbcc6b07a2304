"""What a package is built for: a Debian release with its Python, and a processor with the wheels for it."""

from __future__ import annotations

from dataclasses import dataclass

PYTHONS = {12: "3.11", 13: "3.13"}
"""Debian release: its Python. A .deb carries compiled modules, so it fits one of them."""

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_MANYLINUX = ("manylinux_2_28", "manylinux_2_27", "manylinux2014", "manylinux_2_17")
"""C libraries that both releases satisfy (they have 2.36 and 2.41), newest first."""


@dataclass(frozen=True)
class Target:
    """debian: its release, 12 or 13. arch: Debian's name of the processor, amd64 or arm64."""

    debian: int
    arch: str

    @property
    def python(self) -> str:
        return PYTHONS[self.debian]

    @property
    def after(self) -> str:
        """The first Python that these compiled modules do not fit."""
        major, minor = self.python.split(".")
        return f"{major}.{int(minor) + 1}"

    @property
    def name(self) -> str:
        return f"deb{self.debian}-{self.arch}"

    def pip(self) -> list[str]:
        """pip's options to choose wheels for this target instead of for the machine that builds."""
        platforms = [f"--platform={libc}_{_MACHINES[self.arch]}" for libc in _MANYLINUX]
        return [*platforms, f"--python-version={self.python}", "--implementation=cp", "--only-binary=:all:"]
