"""One mistake in a configuration, and how it is shown: the place, the words, the user's own line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

from marram.errors import ConfigError

Key = str | int
Path = tuple[Key, ...]

LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_PLAIN_KEY = re.compile(r"^[A-Za-z0-9_-]+$")
_SHOWN = 100
_EXCERPT_WIDTH = 100


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A text that configures: a file, an environment variable, an option of the command line.

    name: as it is shown. folder: where relative paths begin. rank: mistakes in the smaller are told first.
    lines: whether lines and columns say where something stands; in one short value they do not.
    """

    name: str
    text: str
    folder: FilePath
    rank: int = 0
    lines: bool = True

    def place(self, line: int, column: int | None = None) -> str:
        """``file:line:column``, without the column if none is given."""
        if not self.lines:
            return self.name
        return f"{self.name}:{line}" if column is None else f"{self.name}:{line}:{column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake at a 1-based line and column (in characters); ``path`` is empty for the file as a whole."""

    source: Source
    line: int
    column: int
    path: Path
    message: str


class InvalidConfigError(ConfigError):
    """A configuration with mistakes; ``problems`` holds them all, by layer and line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda one: (one.source.rank, one.line, one.column)))
        told = self.problems[:_SHOWN]
        lines = {source: LINE_BREAK.split(source.text) for source in {one.source for one in told}}
        shown = [_render(lines[problem.source], problem) for problem in told]
        if len(self.problems) > _SHOWN:
            shown.append(f"and {len(self.problems) - _SHOWN} more")
        super().__init__("\n".join(shown))


def dotted(path: Path) -> str:
    """``("sensors", 0, "name")`` as ``sensors[0].name``; keys with other characters stand in quotes."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += ("." if text else "") + (key if _PLAIN_KEY.match(key) else f'"{printable(key)}"')
    return text


def printable(text: str) -> str:
    """The text on one line, without what a terminal would obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _render(lines: Sequence[str], problem: Problem) -> str:
    key = f"{dotted(problem.path)}: " if problem.path else ""
    head = f"{problem.source.place(problem.line, problem.column)}: {key}{problem.message}"
    if not problem.source.lines:
        return head
    line = lines[problem.line - 1] if problem.line <= len(lines) else ""
    if not line.strip():
        return head
    start = max(0, problem.column - 1 - _EXCERPT_WIDTH // 2)
    part = line[start : start + _EXCERPT_WIDTH]
    # A tab stays a tab under a tab, so that the caret stands below its character in any terminal.
    indent = "".join("\t" if char == "\t" else " " for char in line[start : problem.column - 1])
    number = f"{problem.line:5d} | "
    return f"{head}\n{number}{part}\n{' ' * (len(number) - 2)}| {indent}^"
