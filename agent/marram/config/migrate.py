"""A configuration file of an older version, rewritten for this one: its text is edited, so comments stay.

Nothing is believed: what the edited text says is compared with what it should say, and a file that these
edits cannot do justice to is left to a person.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from marram.config.layers import tree
from marram.config.nodes import Mapping, Node, Scalar, entry
from marram.config.problems import Source, dotted
from marram.config.versions import CURRENT, KEY, MOVES, Move
from marram.errors import ConfigError
from marram.storage import replace_file, sync_folder

_COMMENT = re.compile(r"[ \t]*(#[^\r\n]*)?(\r\n|\n|\r|$)")


@dataclass(frozen=True, slots=True)
class Migration:
    """What becomes of one file. before, after: its texts; the same when there is nothing to do."""

    path: Path
    before: str
    after: str

    def diff(self) -> str:
        """As `diff -u` shows it, "" when there is nothing to do."""
        before, after = (text.splitlines(keepends=True) for text in (self.before, self.after))
        lines = difflib.unified_diff(before, after, str(self.path), f"{self.path} (version {CURRENT})")
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)

    def write(self) -> Path:
        """Put it in place of the file; returns the copy of the old one.

        Raises StorageError or ConfigError.
        """
        path = self.path.resolve()
        backup, new = _free(path.with_name(f"{path.name}.old")), path.with_name(f".{path.name}.migrated")
        try:
            status = path.stat()
            for file, text in ((backup, self.before), (new, self.after)):
                replace_file(file, text.encode())
                # The agent that may read the old one must be able to read this one.
                os.chown(file, status.st_uid, status.st_gid)
                file.chmod(status.st_mode & 0o777)
            new.replace(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written anew: {error.strerror}") from error
        sync_folder(path.parent)
        return backup


def migrate(path: Path, text: str) -> Migration:
    """The file as this version wants it. Raises ConfigError where that needs a person."""
    source = Source(str(path), text, path.parent)
    before, problems = tree(source)
    version = entry(before, KEY)
    if problems or (isinstance(version, Scalar) and version.value == str(CURRENT)):
        return Migration(path, text, text)
    moves = [move for move in MOVES if _has(before, move.old)]
    after = _Editor(path, text).edited(moves)
    try:
        found, problems = tree(Source(str(path), after, path.parent))
    except ConfigError:
        found, problems = Mapping(source, 1, 1), []
    if problems or _plain(found) != _wanted(before, moves):
        raise ConfigError(f"{path}: it is written in a way that must be brought to version {CURRENT} by hand")
    return Migration(path, text, after)


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: str


class _Editor:
    """Edits of one text. The nodes are PyYAML's own, which know where they end."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._text = path, text
        self._line_end = "\r\n" if "\r\n" in text else "\n"
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        self._root = root if isinstance(root, yaml.MappingNode) else None
        self._edits: list[_Edit] = []

    def edited(self, moves: list[Move]) -> str:
        """The whole text with the keys moved and the version set."""
        for move in moves:
            self._move(move)
        self._version()
        text = self._text
        for edit in sorted(self._edits, key=lambda edit: edit.start, reverse=True):
            text = text[: edit.start] + edit.text + text[edit.end :]
        return text

    def _move(self, move: Move) -> None:
        holder = self._find(move.old[:-1])
        pairs = holder.value if isinstance(holder, yaml.MappingNode) else []
        index = next((n for n, (key, _) in enumerate(pairs) if key.value == move.old[-1]), None)
        if index is None or not isinstance(pairs[index][1], yaml.ScalarNode):
            raise self._by_hand(move, "it stands there by an alias or a merge, or holds no number")
        key, value = pairs[index]
        if key.start_mark.line != value.end_mark.line:
            raise self._by_hand(move, "it stands on several lines")
        written = self._text[value.start_mark.index : value.end_mark.index]
        comment = self._take_out(holder, index)
        self._put(move, _limited(written, move.most), comment)

    def _take_out(self, holder: yaml.MappingNode, index: int) -> str:
        """Remove an entry; returns the comment behind it."""
        pairs = holder.value
        key, value = pairs[index]
        start, end = key.start_mark.index, value.end_mark.index
        if holder.flow_style:
            if index + 1 < len(pairs):
                end = pairs[index + 1][0].start_mark.index
            elif index:
                start = pairs[index - 1][1].end_mark.index
            self._edits.append(_Edit(start, end, ""))
            return ""
        rest = _COMMENT.match(self._text, end)
        assert rest is not None
        self._edits.append(_Edit(start - key.start_mark.column, rest.end(), ""))
        return f" {rest[1]}" if rest[1] else ""

    def _put(self, move: Move, value: str, comment: str) -> None:
        *sections, name = move.new
        assert len(sections) == 1, "a section in a section has not been needed yet"
        assert self._root is not None
        pair = next((pair for pair in self._root.value if pair[0].value == sections[0]), None)
        if pair is None:
            self._append(
                f"{sections[0]}:{self._line_end}  {name}: {value}{comment}",
                f"{sections[0]}: {{ {name}: {value} }}",
            )
            return
        key, section = pair
        if isinstance(section, yaml.MappingNode) and any(one.value == name for one, _ in section.value):
            raise self._by_hand(move, f"{dotted(move.new)} is there already")
        if isinstance(section, yaml.MappingNode) and section.flow_style:
            at = section.start_mark.index + 1
            self._edits.append(_Edit(at, at, f" {name}: {value}{',' if section.value else ' '}"))
        elif isinstance(section, yaml.MappingNode):
            first = section.value[0][0].start_mark
            at = first.index - first.column
            self._edits.append(_Edit(at, at, f"{' ' * first.column}{name}: {value}{comment}{self._line_end}"))
        elif isinstance(section, yaml.ScalarNode) and not section.value:
            rest = _COMMENT.match(self._text, self._text.index(":", key.end_mark.index) + 1)
            assert rest is not None
            indent = " " * (key.start_mark.column + 2)
            end = "" if rest[2] else self._line_end
            self._edits.append(
                _Edit(rest.end(), rest.end(), f"{end}{indent}{name}: {value}{comment}{self._line_end}")
            )
        else:
            raise self._by_hand(move, f"{sections[0]} is no section")

    def _version(self) -> None:
        root = self._root
        if root is None:
            self._edits.append(_Edit(len(self._text), len(self._text), f"{KEY}: {CURRENT}{self._line_end}"))
            return
        value = next((value for key, value in root.value if key.value == KEY), None)
        first = root.value[0][0].start_mark if root.value else None
        if value is not None:
            self._edits.append(_Edit(value.start_mark.index, value.end_mark.index, str(CURRENT)))
        elif root.flow_style:
            at = root.start_mark.index + 1
            self._edits.append(_Edit(at, at, f"{KEY}: {CURRENT}{', ' if root.value else ''}"))
        elif first is not None:
            at = first.index - first.column
            self._edits.append(_Edit(at, at, f"{' ' * first.column}{KEY}: {CURRENT}{self._line_end}"))

    def _append(self, block: str, flow: str) -> None:
        """A new section at the end of the mapping."""
        assert self._root is not None
        if self._root.flow_style:
            at = self._root.end_mark.index - 1
            self._edits.append(_Edit(at, at, f", {flow}"))
            return
        last = self._root.value[-1][1].end_mark.index
        end = re.compile(r"^(\.\.\.|---)", re.MULTILINE).search(self._text, last)
        at = end.start() if end else len(self._text)
        taken_out = any(edit.end == at and not edit.text for edit in self._edits)
        before = "" if taken_out or self._text[:at].endswith(("\n", "\r")) else self._line_end
        self._edits.append(_Edit(at, at, f"{before}{block}{self._line_end}"))

    def _find(self, path: tuple[str, ...]) -> Any:  # noqa: ANN401
        node: Any = self._root
        for step in path:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            node = next((value for key, value in pairs if key.value == step), None)
        return node

    def _by_hand(self, move: Move, reason: str) -> ConfigError:
        return ConfigError(
            f"{self._path}: {dotted(move.old)} is {dotted(move.new)} since version {move.since}, "
            f"and must be moved by hand: {reason}"
        )


def _has(root: Node, path: tuple[str, ...]) -> bool:
    node: Node | None = root
    for step in path:
        node = entry(node, step)
    return node is not None


def _limited(written: str, most: float) -> str:
    """The value as it is written, or the largest one that there is now."""
    try:
        return written if float(written) <= most else f"{most:g}"
    except ValueError:
        return written


def _wanted(before: Mapping, moves: list[Move]) -> object:
    """What the edited text should say."""
    wanted = _plain(before)
    wanted = wanted or {}
    wanted[KEY] = str(CURRENT)
    for move in moves:
        value = _section(wanted, move.old).pop(move.old[-1])
        _section(wanted, move.new)[move.new[-1]] = _limited(value, move.most)
    # A section that has lost its last key is written with nothing in it.
    return _without_empty(wanted)


def _section(whole: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for step in path[:-1]:
        if not isinstance(whole.get(step), dict):
            whole[step] = {}
        whole = whole[step]
    return whole


def _plain(node: Node) -> Any:  # noqa: ANN401
    if isinstance(node, Mapping):
        return {key.value: _plain(value) for key, value in node.entries} or ""
    return node.value if isinstance(node, Scalar) else [_plain(item) for item in node.items]


def _without_empty(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _without_empty(inner) for key, inner in value.items()} or ""
    return value


def _free(path: Path) -> Path:
    """The path, or with a number behind it, that no file has."""
    names = (path, *(path.with_name(f"{path.name}.{number}") for number in range(1, 1000)))
    return next(name for name in names if not name.exists())
