"""Versions of the configuration: what changed in each, and the files that still say it the old way.

A file without the key ``version`` is of version 1. A file of an older version is taken as long as it uses
nothing that changed since; ``marram.config.migrate`` rewrites one that does.
"""

from __future__ import annotations

from dataclasses import dataclass

from marram.config.expected import found
from marram.config.nodes import Mapping, Node, Scalar, entry
from marram.config.problems import Problem, dotted

KEY = "version"
CURRENT = 2


@dataclass(frozen=True, slots=True)
class Move:
    """A key that has another place since a version. most: larger numbers mean the same as this one."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    since: int
    most: float


MOVES = (Move(("learning", "governor", "max_temperature"), ("watch", "training_below"), since=2, most=150),)


def outdated(root: Mapping) -> list[Problem]:
    """What in a file's tree belongs to another version than this program's."""
    node = entry(root, KEY)
    if node is not None and not _known(node):
        version = node.value if isinstance(node, Scalar) and node.tag == "int" else ""
        newer = f"; version {version} needs a newer Marram" if version.isdecimal() and version != "0" else ""
        message = f"expected a whole number from 1 to {CURRENT}, found {found(node)}{newer}"
        return [_problem(node, (KEY,), message)]
    problems = []
    for move in MOVES:
        key = find_key(root, move.old)
        if key is not None:
            message = (
                f"this key is {dotted(move.new)} since version {move.since}: "
                f"run `marram config migrate {root.source.name}`"
            )
            problems.append(_problem(key, move.old, message))
    return problems


def find_key(root: Node, path: tuple[str, ...]) -> Scalar | None:
    """The key itself at the end of a path, or None."""
    *way, last = path
    node: Node | None = root
    for step in way:
        node = entry(node, step)
    if not isinstance(node, Mapping):
        return None
    return next((key for key, _ in node.entries if key.value == last), None)


def _known(node: Node) -> bool:
    return isinstance(node, Scalar) and node.tag == "int" and node.value in map(str, range(1, CURRENT + 1))


def _problem(node: Node, path: tuple[str, ...], message: str) -> Problem:
    return Problem(node.source, node.line, node.column, path, message)
