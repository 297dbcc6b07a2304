"""Runs all checks on a machine; one that breaks is a finding of its own, and the others go on."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from typing import Any

import msgspec

from marram.doctor import checks
from marram.doctor.finding import Finding, Severity, error
from marram.doctor.machine import Machine
from marram.errors import MarramError


class DoctorError(MarramError):
    """A check that does not exist was asked for."""


Check = Callable[[Machine], Iterable[Finding]]

# In the order in which a person would look: what others rest on comes first.
_FIRST = ("configuration", "agent", "clock")


class Result(msgspec.Struct, frozen=True):
    """What one check found."""

    check: str
    findings: tuple[Finding, ...]


def known() -> list[tuple[str, str]]:
    """(name, module) of every check, those of other distributions last."""
    own = sorted(module.name for module in pkgutil.iter_modules(checks.__path__))
    own.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    found = [(name, f"{checks.__name__}.{name}") for name in own]
    return found + [
        (entry.name, entry.value)
        for entry in sorted(entry_points(group="marram.checks"), key=lambda e: e.name)
    ]


def examine(machine: Machine, only: Iterable[str] = ()) -> Iterator[Result]:
    """One result a check, as they are done. only: names of the checks to run, by default all.

    Raises DoctorError for a name that is none.
    """
    wanted, checks_known = set(only), known()
    strangers = sorted(wanted - {name for name, _ in checks_known})
    if strangers:
        names = ", ".join(name for name, _ in checks_known)
        raise DoctorError(f"there is no check {strangers[0]!r}; there are: {names}")
    for name, module in checks_known:
        if not wanted or name in wanted:
            yield Result(name, tuple(_run(name, module, machine)))


def _run(name: str, module: str, machine: Machine) -> Iterator[Finding]:
    try:
        check: Check = importlib.import_module(module).check
        yield from check(machine)
    except Exception as problem:
        yield error(
            name,
            f"the check itself broke: {type(problem).__name__}: {problem}",
            "the other checks do not depend on it; report this with `marram diag`",
        )


def worst(results: Iterable[Result]) -> Severity:
    """The highest severity of all findings."""
    return max((finding.severity for result in results for finding in result.findings), default=Severity.OK)


def exit_status(severity: Severity) -> int:
    """0 when nothing has to be done, 1 for warnings, 2 for errors."""
    return {Severity.WARNING: 1, Severity.ERROR: 2}.get(severity, 0)


def builtins(results: Iterable[Result]) -> dict[str, Any]:
    """For ``--json``."""
    results = list(results)
    return {
        "severity": worst(results).name.lower(),
        "findings": [
            {"check": result.check, "severity": finding.severity.name.lower(), "name": finding.name,
             "found": finding.found, "todo": finding.todo}
            for result in results
            for finding in result.findings
        ],
    }  # fmt: skip


def text(result: Result) -> str:
    """For a terminal: a line a finding, and below it what to do."""
    lines = []
    for finding in result.findings:
        head, *more = finding.found.splitlines() or [""]
        lines.append(f"{finding.severity.name.lower():8}{result.check:14}{finding.name}: {head}")
        lines += [f"{'':22}{line}" for line in more]
        if finding.todo:
            lines.append(f"{'':22}-> {finding.todo}")
    return "\n".join(lines)
