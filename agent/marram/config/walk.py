"""A tree of YAML nodes against a type: the value it makes, or every problem with its place.

The walker follows ``msgspec.inspect``'s view of the type, so whatever a struct declares (constraints,
defaults, tags) is what the file is checked for; there is no second description to keep in step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec.inspect as mi

from marram.config.expected import bare, closest, did_you_mean, expected, found, reader_of
from marram.config.nodes import Mapping, Node, Scalar, Sequence
from marram.config.problems import Path, Problem
from marram.config.scalars import MismatchError, convert, plain, read
from marram.config.values import Place

# Values built in all, aliases followed: a few lines of nested aliases would otherwise make billions.
MAX_VALUES = 100_000
# Looking for the nearest name costs a millisecond, and only the first problems are shown.
_MOST_HINTS = 100

BAD: Final = object()
"""Stands for a value that could not be built; its problems are on the list."""

_COLLECTIONS = (mi.ListType, mi.VarTupleType, mi.TupleType, mi.SetType, mi.FrozenSetType)
_MAPPINGS = (mi.StructType, mi.DictType)
_TRIED_FIRST = (mi.LiteralType, mi.EnumType, mi.BoolType, mi.IntType, mi.FloatType)
_MAKE: dict[type[mi.Type], Callable[[Iterable[object]], object]] = {
    mi.ListType: list,
    mi.SetType: set,
    mi.FrozenSetType: frozenset,
}


class TooManyValuesError(Exception):
    """The aliases of the file multiply to more than ``MAX_VALUES`` values."""


class Walker:
    """Builds one value out of one tree; ``problems`` holds what was wrong.

    ``at`` in the methods is the place to report what has no place of its own, such as a missing key: the
    key above it, or the start of the list item.
    """

    def __init__(self, place: Place) -> None:
        self.problems: list[Problem] = []
        self._place = place
        self._values = 0

    def build(self, node: Node, kind: mi.Type, path: Path, at: Node) -> object:
        """The value of ``node`` as ``kind``, or BAD."""
        self._count()
        reader = reader_of(kind)
        if reader and isinstance(node, Scalar) and node.tag != "null":
            try:
                return read(node, kind, reader, self._place)
            except MismatchError as mismatch:
                return self._bad(node, path, str(mismatch))
        if reader:
            return self._mismatch(node, kind, path)
        inner = bare(kind)
        match inner:
            case mi.UnionType():
                return self._union(node, inner, path, at)
            case mi.StructType():
                return self._structs(node, [inner], path, at)
            case mi.DictType():
                return self._dict(node, inner, path)
            case mi.AnyType():
                return self._anything(node, path)
        if isinstance(inner, _COLLECTIONS):
            return self._collection(node, inner, path)
        if not isinstance(node, Scalar):
            return self._mismatch(node, kind, path)
        try:
            return convert(node, kind)
        except MismatchError as mismatch:
            return self._bad(node, path, str(mismatch))

    def _count(self) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise TooManyValuesError

    def _bad(self, node: Node, path: Path, message: str) -> object:
        self.problems.append(Problem(node.line, node.column, path, message))
        return BAD

    def _mismatch(self, node: Node, kind: mi.Type, path: Path) -> object:
        return self._bad(node, path, f"expected {expected(kind)}, found {found(node)}")

    # Unions

    def _union(self, node: Node, kind: mi.UnionType, path: Path, at: Node) -> object:
        optional = any(isinstance(bare(choice), mi.NoneType) for choice in kind.types)
        choices = [choice for choice in kind.types if not isinstance(bare(choice), mi.NoneType)]
        structs = [inner for choice in choices if isinstance(inner := bare(choice), mi.StructType)]
        # "learning:" with nothing under it asks for the section as it is by default; "~" for none.
        if optional and isinstance(node, Scalar) and node.tag == "null" and (node.value or not structs):
            return None
        if len(choices) == 1:
            return self.build(node, choices[0], path, at)
        if structs and (isinstance(node, Mapping) or len(structs) == len(choices)):
            return self._structs(node, structs, path, at)
        fitting = [choice for choice in choices if _shape_fits(node, bare(choice))]
        if len(fitting) == 1 and not isinstance(node, Scalar):
            return self.build(node, fitting[0], path, at)
        for choice in sorted(fitting, key=lambda choice: not isinstance(bare(choice), _TRIED_FIRST)):
            before = len(self.problems)
            value = self.build(node, choice, path, at)
            if value is not BAD:
                return value
            del self.problems[before:]
        hint = ""
        if isinstance(node, Scalar):
            words = [str(v) for c in choices if isinstance(i := bare(c), mi.LiteralType) for v in i.values]
            hint = did_you_mean(node.value, words)
        return self._bad(node, path, f"expected {expected(kind)}, found {found(node)}{hint}")

    # Structs

    def _structs(self, node: Node, kinds: list[mi.StructType], path: Path, at: Node) -> object:
        if isinstance(node, Scalar) and node.tag == "null" and not node.value:
            node = Mapping(node.line, node.column)
        if not isinstance(node, Mapping):
            return self._mismatch(node, kinds[0], path)
        entries = self._entries(node, path)
        tag_field = kinds[0].tag_field
        if tag_field is None:
            return self._struct(node, kinds[0], entries, path, at)
        tags = {str(kind.tag): kind for kind in kinds}
        if tag_field not in entries:
            return self._bad(
                at, (*path, tag_field), f"this key is missing: expected one of {', '.join(tags)}"
            )
        value = entries.pop(tag_field)[1]
        chosen = tags.get(value.value) if isinstance(value, Scalar) else None
        if chosen is None:
            hint = did_you_mean(value.value, tags) if isinstance(value, Scalar) else ""
            message = f"expected one of {', '.join(tags)}, found {found(value)}{hint}"
            return self._bad(value, (*path, tag_field), message)
        return self._struct(node, chosen, entries, path, at)

    def _struct(
        self,
        node: Mapping,
        kind: mi.StructType,
        entries: dict[str, tuple[Scalar, Node]],
        path: Path,
        at: Node,
    ) -> object:
        before = len(self.problems)
        fields = {field.encode_name: field for field in kind.fields}
        misspelt = set()
        for name, (key, _) in entries.items():
            if name in fields or not kind.forbid_unknown_fields:
                continue
            few = len(self.problems) < _MOST_HINTS
            guess = closest(name, fields.keys() - entries.keys()) if few else None
            misspelt.add(guess)
            hint = f"; did you mean {guess!r}?" if guess else f"; known here: {', '.join(fields)}"
            self._bad(key, (*path, name), f"this key is not known{hint}")
        values = {}
        for name, field in fields.items():
            if name in entries:
                key, value = entries[name]
                values[field.name] = self.build(value, field.type, (*path, name), key)
            elif field.required and name not in misspelt:
                self._bad(at, (*path, name), f"this key is missing: expected {expected(field.type)}")
        if len(self.problems) > before:
            return BAD
        try:
            instance = kind.cls(**values)
        except (TypeError, ValueError) as error:
            return self._bad(at, path, str(error))
        self._cross_field(instance, node, path, at)
        return instance if len(self.problems) == before else BAD

    def _cross_field(self, instance: object, node: Mapping, path: Path, at: Node) -> None:
        problems = getattr(instance, "problems", None)
        if problems is None:
            return
        for relative, message in problems():
            place = self._locate(node, relative, at)
            self._bad(place, (*path, *relative), message)

    def _locate(self, node: Node, relative: Path, at: Node) -> Node:
        """The node at a relative path, or the nearest one above it that the file holds."""
        for key in relative:
            if isinstance(node, Mapping) and isinstance(key, str):
                entry = self._entries(node, None).get(key)
                if entry is None:
                    return at
                at, node = entry
            elif isinstance(node, Sequence) and isinstance(key, int) and key < len(node.items):
                at = node = node.items[key]
            else:
                return at
        return node if relative else at

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

    # Collections

    def _dict(self, node: Node, kind: mi.DictType, path: Path) -> object:
        if isinstance(node, Scalar) and node.tag == "null" and not node.value:
            return {}
        if not isinstance(node, Mapping):
            return self._mismatch(node, kind, path)
        result, good = {}, True
        for name, (key, value) in self._entries(node, path).items():
            built_key = self.build(key, kind.key_type, (*path, name), key)
            built = self.build(value, kind.value_type, (*path, name), key)
            good = good and built_key is not BAD and built is not BAD
            if good:
                result[built_key] = built
        return result if good else BAD

    def _collection(self, node: Node, kind: mi.Type, path: Path) -> object:
        if isinstance(node, Scalar) and node.tag == "null" and not node.value:
            node = Sequence(node.line, node.column)
        if not isinstance(node, Sequence):
            return self._mismatch(node, kind, path)
        if isinstance(kind, mi.TupleType):
            kinds = list(kind.item_types)
            fits = len(node.items) == len(kinds)
        else:
            assert isinstance(kind, mi.CollectionType)
            kinds = [kind.item_type] * len(node.items)
            fits = len(node.items) >= (kind.min_length or 0) and (
                kind.max_length is None or len(node.items) <= kind.max_length
            )
        if not fits:
            return self._mismatch(node, kind, path)
        built = [
            self.build(item, item_kind, (*path, index), item)
            for index, (item, item_kind) in enumerate(zip(node.items, kinds, strict=True))
        ]
        if any(value is BAD for value in built):
            return BAD
        for collection, make in _MAKE.items():
            if isinstance(kind, collection):
                return make(built)
        return tuple(built)

    def _anything(self, node: Node, path: Path) -> object:
        self._count()
        if isinstance(node, Mapping):
            entries = self._entries(node, path).items()
            return {name: self._anything(value, (*path, name)) for name, (_, value) in entries}
        if isinstance(node, Sequence):
            return [self._anything(item, (*path, index)) for index, item in enumerate(node.items)]
        if node.tag == "null":
            return None
        return node.value.lower() in ("true", "yes", "on") if node.tag == "bool" else plain(node)


def _shape_fits(node: Node, kind: mi.Type) -> bool:
    if isinstance(node, Mapping):
        return isinstance(kind, _MAPPINGS)
    if isinstance(node, Sequence):
        return isinstance(kind, _COLLECTIONS)
    return not isinstance(kind, _MAPPINGS + _COLLECTIONS)
