"""The form of every benchmark's result, and the page that they make together."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


@dataclass(frozen=True)
class Figure:
    """One line of a result. value: as it is to be read. limit: what was asked for, "" where nothing was.

    met: whether the limit holds; None without one.
    """

    what: str
    value: str
    limit: str = ""
    met: bool | None = None


def at_least(what: str, value: float, limit: float, unit: str = "") -> Figure:
    return Figure(what, f"{value:.3g}{unit}", f"at least {limit:g}{unit}", value >= limit)


def at_most(what: str, value: float, limit: float, unit: str = "") -> Figure:
    return Figure(what, f"{value:.3g}{unit}", f"at most {limit:g}{unit}", value <= limit)


@dataclass(frozen=True)
class Result:
    """What one benchmark measured. command: repeats it. notes: how, in a sentence or two."""

    title: str
    command: str
    notes: str
    figures: Sequence[Figure]

    def markdown(self) -> str:
        rows = "\n".join(
            f"| {_cell(one.what)} | {_cell(one.value)} | {one.limit}{_mark(one)} |" for one in self.figures
        )
        return (
            f"## {self.title}\n\n{self.notes}\n\n`{self.command}`\n\n"
            f"| figure | measured | limit |\n| --- | --- | --- |\n{rows}\n"
        )


def write(results: dict[str, str]) -> None:
    """Write ``RESULTS.md``; sections of benchmarks that did not run now are kept as they are."""
    kept = {**_sections(), **results}
    RESULTS.write_text(
        "# Measured\n\n`make bench` measures all of this and writes this page; each section's command\n"
        'repeats one. Ratios were measured in one run; times are medians. "missed" marks a limit that this\n'
        f"machine did not hold.\n\nLast run: {date.today().isoformat()}, {machine()}.\n\n"
        + "\n".join(text for _, text in sorted(kept.items()))
    )


def machine() -> str:
    """In a few words, what this was measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "numpy", "torch"))
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}"


def _sections() -> dict[str, str]:
    """The sections that the page holds, by the last word of the command that stands on a line of its own."""
    if not RESULTS.exists():
        return {}
    found = {}
    for part in RESULTS.read_text().split("\n## ")[1:]:
        [command] = (line.strip("`") for line in part.splitlines() if line.startswith("`python -m "))
        found[command.rpartition(" ")[2]] = "## " + part.rstrip() + "\n"
    return found


def _mark(figure: Figure) -> str:
    return "" if figure.met is None else (", held" if figure.met else ", **missed**")


def _cell(text: str) -> str:
    """A bar would end the cell, also inside a code span."""
    return text.replace("|", "\\|")
