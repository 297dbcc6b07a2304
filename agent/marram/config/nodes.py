"""YAML text to a tree of nodes that know their source, line and column.

What may come in: any text. PyYAML's parser does the reading (the C one where it is installed); composing
the tree is done here from its events, because depth and size must be bounded before recursion begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from marram.config.problems import LINE_BREAK, Problem, Source

MAX_DEPTH = 64
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = {"str", "int", "float", "bool", "null", "timestamp", "merge"}
_RESOLVER: Any = yaml.resolver.Resolver()


@dataclass(slots=True)
class Scalar:
    """One value. ``tag`` is what YAML 1.1 takes it for: str, int, float, bool, null, timestamp or merge."""

    source: Source
    line: int
    column: int
    value: str
    tag: str
    plain: bool


@dataclass(slots=True)
class Sequence:
    """``height``: levels below it, those of aliases included."""

    source: Source
    line: int
    column: int
    items: list[Node] = field(default_factory=list)
    height: int = 1


@dataclass(slots=True)
class Mapping:
    """Entries as they stand in the file: duplicates and merge keys included, until ``flatten``.
    ``height`` as of a Sequence."""

    source: Source
    line: int
    column: int
    entries: list[tuple[Scalar, Node]] = field(default_factory=list)
    height: int = 1


Node = Scalar | Sequence | Mapping


class UnreadableError(Exception):
    """The text is not YAML that a configuration may hold; ``problem`` says where and why."""

    def __init__(self, source: Source, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(source, line, column, (), message)


def compose(source: Source, loader: type[yaml.Loader] = _LOADER) -> Node | None:
    """The one document in the source's text, or None when there is none.

    An alias is the very node of its anchor, so a tree may share nodes but never holds a cycle. Raises
    UnreadableError.
    """
    text = source.text
    bad = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if bad:
        *before, here = LINE_BREAK.split(text[: bad.start()])
        line, column = len(before) + 1, len(here) + 1
        raise UnreadableError(
            source, line, column, f"expected printable text, found the character {bad.group()!r}"
        )
    try:
        return _Composer(source, yaml.parse(text, Loader=loader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise UnreadableError(source, line, column, _syntax(error, text, line, column)) from error


def _syntax(error: yaml.MarkedYAMLError, text: str, line: int, column: int) -> str:
    lines = LINE_BREAK.split(text)
    here = lines[line - 1][column - 1 : column] if line <= len(lines) else ""
    words = f"this is not valid YAML: {error.problem or 'it cannot be read'}"
    if error.context:
        words += f" {error.context}"
        if error.context_mark:
            words += f" that begins at line {error.context_mark.line + 1}"
    if here == "\t":
        words += "; YAML does not allow tabs for indentation, use spaces"
    elif here in ("@", "`", "%"):
        words += f"; put the value in quotes, because {here!r} cannot begin one"
    return words


class _Composer:
    """Turns parser events into nodes, one document, depth bounded."""

    def __init__(self, source: Source, events: Iterator[yaml.Event]) -> None:
        self._source, self._events = source, events
        self._anchors: dict[str, Node | None] = {}
        self._depth = 0

    def document(self) -> Node | None:
        root: Node | None = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    line, column = _place(event)
                    self._unreadable(
                        line, column, "expected one YAML document, found a second one after '---'"
                    )
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event)
        return root

    def _unreadable(self, line: int, column: int, message: str) -> NoReturn:
        raise UnreadableError(self._source, line, column, message)

    def _node(self, event: yaml.Event) -> Node:
        line, column = _place(event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                self._unreadable(
                    line, column, f"alias *{event.anchor} has no anchor &{event.anchor} above it"
                )
            node = self._anchors[event.anchor]
            if node is None:
                self._unreadable(line, column, f"alias *{event.anchor} stands inside its own anchor")
            if self._depth + _height(node) > MAX_DEPTH:
                self._unreadable(line, column, _TOO_DEEP)
            return node
        anchor = getattr(event, "anchor", None)
        if anchor:
            self._anchors[anchor] = None
        node = self._fresh(event, line, column)
        if anchor:
            self._anchors[anchor] = node
        return node

    def _fresh(self, event: yaml.Event, line: int, column: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(self._source, line, column, event.value, self._scalar_tag(event), not event.style)
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", _TAG + "map", _TAG + "seq"):
            self._unreadable(line, column, f"the tag {tag!r} is not allowed here: leave it out")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._unreadable(line, column, _TOO_DEEP)
        node = (
            self._sequence(line, column)
            if isinstance(event, yaml.SequenceStartEvent)
            else self._mapping(line, column)
        )
        self._depth -= 1
        return node

    def _sequence(self, line: int, column: int) -> Sequence:
        node = Sequence(self._source, line, column)
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item = self._node(event)
            node.items.append(item)
            node.height = max(node.height, 1 + _height(item))
        return node

    def _mapping(self, line: int, column: int) -> Mapping:
        node = Mapping(self._source, line, column)
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event)
            if not isinstance(key, Scalar):
                self._unreadable(key.line, key.column, "expected a name as key, found a list or a mapping")
            value = self._node(next(self._events))
            node.entries.append((key, value))
            node.height = max(node.height, 1 + _height(value))
        return node

    def _scalar_tag(self, event: yaml.ScalarEvent) -> str:
        tag = event.tag
        if tag is None:
            tag = _RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit)
        elif tag == "!":
            tag = _TAG + "str"
        name = str(tag).removeprefix(_TAG)
        if name == "value":
            return "str"
        if name not in _SCALAR_TAGS:
            self._unreadable(*_place(event), f"the tag {tag!r} is not allowed here: leave it out")
        return name


def entry(node: Node | None, key: str) -> Node | None:
    """The value of a mapping's key, or None."""
    if not isinstance(node, Mapping):
        return None
    return next((value for name, value in node.entries if name.value == key), None)


def is_nothing(node: Node | None) -> bool:
    """Nothing written, or a word for it such as ``~``."""
    return node is None or (isinstance(node, Scalar) and node.tag == "null")


def is_blank(node: Node) -> bool:
    """Nothing written at all, which asks for what is so by default; ``~`` says that there is none."""
    return isinstance(node, Scalar) and node.tag == "null" and not node.value


def _height(node: Node) -> int:
    return 0 if isinstance(node, Scalar) else node.height


def _place(event: yaml.Event) -> tuple[int, int]:
    mark: Any = event.start_mark
    return mark.line + 1, mark.column + 1
