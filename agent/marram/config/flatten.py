"""A composed tree without YAML's shorthand: aliases copied out, merge keys followed, no key twice."""

from __future__ import annotations

from marram.config.expected import found
from marram.config.nodes import Mapping, Node, Scalar, Sequence
from marram.config.problems import Path, Problem

# Values in all, aliases followed: a few lines of nested aliases would otherwise make billions.
MAX_VALUES = 100_000


class TooManyValuesError(Exception):
    """The aliases of a text multiply to more than ``MAX_VALUES`` values."""


def flatten(root: Node) -> tuple[Node, list[Problem]]:
    """The tree, and its keys that stand twice or merge what is no mapping. Raises TooManyValuesError."""
    flattener = _Flattener()
    return flattener.node(root, ()), flattener.problems


class _Flattener:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._values = 0

    def node(self, node: Node, path: Path) -> Node:
        self._count()
        if isinstance(node, Scalar):
            return node
        if isinstance(node, Sequence):
            items = [self.node(item, (*path, index)) for index, item in enumerate(node.items)]
            return Sequence(node.source, node.line, node.column, items, node.height)
        entries = [
            (key, self.node(value, (*path, key.value))) for key, value in self._entries(node, path).values()
        ]
        return Mapping(node.source, node.line, node.column, entries, node.height)

    def _count(self) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise TooManyValuesError

    def _entries(self, node: Mapping, path: Path | None) -> dict[str, tuple[Scalar, Node]]:
        """The entries by key; duplicates are problems (unless ``path`` is None), merges are followed."""
        entries: dict[str, tuple[Scalar, Node]] = {}
        merged: list[Node] = []
        for key, value in node.entries:
            if key.tag == "merge":
                merged += value.items if isinstance(value, Sequence) else [value]
            elif key.value not in entries:
                entries[key.value] = (key, value)
            elif path is not None:
                first = entries[key.value][0].line
                self._bad(key, (*path, key.value), f"this key stands twice, first at line {first}")
        for source in merged:
            self._count()
            if isinstance(source, Mapping):
                for name, entry in self._entries(source, None).items():
                    self._count()
                    entries.setdefault(name, entry)
            elif path is not None:
                self._bad(source, (*path, "<<"), f"expected a mapping to merge, found {found(source)}")
        return entries

    def _bad(self, node: Node, path: Path, message: str) -> None:
        self.problems.append(Problem(node.source, node.line, node.column, path, message))
