"""Is the configuration valid?"""

from __future__ import annotations

from collections.abc import Iterator

from marram.doctor.finding import Finding, error, ok
from marram.doctor.machine import Machine


def check(machine: Machine) -> Iterator[Finding]:
    name = str(machine.path)
    if machine.problem:
        yield error(name, machine.problem, "correct it; `marram check` says when it is right")
    else:
        yield ok(name, "valid")
