"""One mistake in a configuration file, and how it is shown: the place, the words, the user's own line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from marram.errors import ConfigError

Key = str | int
Path = tuple[Key, ...]

LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_PLAIN_KEY = re.compile(r"^[A-Za-z0-9_-]+$")
_SHOWN = 100
_EXCERPT_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake at a 1-based line and column (in characters); ``path`` is empty for the file as a whole."""

    line: int
    column: int
    path: Path
    message: str


class InvalidConfigError(ConfigError):
    """A configuration file with mistakes; ``problems`` holds them all, in the order of the file."""

    def __init__(self, source: str, text: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))
        lines = LINE_BREAK.split(text)
        shown = [_render(source, lines, problem) for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            shown.append(f"{source}: and {len(self.problems) - _SHOWN} more")
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


def _render(source: str, lines: Sequence[str], problem: Problem) -> str:
    where = f"{source}:{problem.line}:{problem.column}: "
    key = f"{dotted(problem.path)}: " if problem.path else ""
    head = where + key + problem.message
    line = lines[problem.line - 1] if problem.line <= len(lines) else ""
    if not line.strip():
        return head
    start = max(0, problem.column - 1 - _EXCERPT_WIDTH // 2)
    part = line[start : start + _EXCERPT_WIDTH]
    # A tab stays a tab under a tab, so that the caret stands below its character in any terminal.
    indent = "".join("\t" if char == "\t" else " " for char in line[start : problem.column - 1])
    number = f"{problem.line:5d} | "
    return f"{head}\n{number}{part}\n{' ' * (len(number) - 2)}| {indent}^"
