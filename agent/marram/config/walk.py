"""A tree of YAML nodes (see ``flatten``) against a type: the value it makes, or every problem with its place.

The walker follows ``msgspec.inspect``'s view of the type, so whatever a struct declares (constraints,
defaults, tags) is what the file is checked for; there is no second description to keep in step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec.inspect as mi

from marram.config.expected import bare, closest, did_you_mean, expected, found, reader_of
from marram.config.nodes import Mapping, Node, Scalar, Sequence, is_blank, is_nothing
from marram.config.problems import Path, Problem
from marram.config.scalars import MismatchError, convert, plain, read
from marram.config.values import Place

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


class Walker:
    """Builds one value out of one tree; ``problems`` holds what was wrong.

    ``at`` in the methods is the place to report what has no place of its own, such as a missing key: the
    key above it, or the start of the list item. What a section lacks that stands in a base alone is reported
    at the main file, which is where it is to be written.
    """

    def __init__(self, root: Mapping, check_files: bool) -> None:
        self.problems: list[Problem] = []
        self._root, self._check_files = root, check_files

    def value(self, kind: mi.Type) -> object:
        """The whole tree as ``kind``, or BAD."""
        return self.build(self._root, kind, (), self._root)

    def build(self, node: Node, kind: mi.Type, path: Path, at: Node) -> object:
        """The value of ``node`` as ``kind``, or BAD."""
        reader = reader_of(kind)
        if reader and isinstance(node, Scalar) and node.tag != "null":
            try:
                return read(node, kind, reader, Place(node.source.folder, self._check_files))
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
                return self._anything(node)
        if isinstance(inner, _COLLECTIONS):
            return self._collection(node, inner, path)
        if not isinstance(node, Scalar):
            return self._mismatch(node, kind, path)
        try:
            return convert(node, kind)
        except MismatchError as mismatch:
            return self._bad(node, path, str(mismatch))

    def _bad(self, node: Node, path: Path, message: str) -> object:
        self.problems.append(Problem(node.source, node.line, node.column, path, message))
        return BAD

    def _mismatch(self, node: Node, kind: mi.Type, path: Path) -> object:
        return self._bad(node, path, f"expected {expected(kind)}, found {found(node)}")

    # Unions

    def _union(self, node: Node, kind: mi.UnionType, path: Path, at: Node) -> object:
        optional = any(isinstance(bare(choice), mi.NoneType) for choice in kind.types)
        choices = [choice for choice in kind.types if not isinstance(bare(choice), mi.NoneType)]
        structs = [inner for choice in choices if isinstance(inner := bare(choice), mi.StructType)]
        # "learning:" with nothing under it asks for the section as it is by default; "~" for none.
        if optional and is_nothing(node) and not (structs and is_blank(node)):
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
        if is_blank(node):
            node = Mapping(node.source, node.line, node.column)
        if not isinstance(node, Mapping):
            return self._mismatch(node, kinds[0], path)
        entries = _entries(node)
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
            homes = _homes(name, fields.values()) if few else []
            guess = closest(name, fields.keys() - entries.keys()) if few and not homes else None
            misspelt.add(guess)
            hint = f"; did you mean {guess!r}?" if guess else f"; known here: {', '.join(fields)}"
            if homes:
                hint = f"; it belongs into {' or '.join(homes)}"
            self._bad(key, (*path, name), f"this key is not known{hint}")
        values = {}
        for name, field in fields.items():
            if name in entries:
                key, value = entries[name]
                values[field.name] = self.build(value, field.type, (*path, name), key)
            elif field.required and name not in misspelt:
                lacking = self._lacking(at, path)
                self._bad(lacking, (*path, name), f"this key is missing: expected {expected(field.type)}")
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
            place = self._locate(node, relative, self._lacking(at, path))
            self._bad(place, (*path, *relative), message)

    def _lacking(self, at: Node, path: Path) -> Node:
        """Where a section lacks something. An item of a list is at home in its own file."""
        listed = any(isinstance(step, int) for step in path)
        return at if listed or at.source.rank >= self._root.source.rank else self._root

    def _locate(self, node: Node, relative: Path, at: Node) -> Node:
        """The node at a relative path, or the nearest one above it that the file holds."""
        for key in relative:
            if isinstance(node, Mapping) and isinstance(key, str):
                entry = _entries(node).get(key)
                if entry is None:
                    return at
                at, node = entry
            elif isinstance(node, Sequence) and isinstance(key, int) and key < len(node.items):
                at = node = node.items[key]
            else:
                return at
        return node if relative else at

    # Collections

    def _dict(self, node: Node, kind: mi.DictType, path: Path) -> object:
        if is_blank(node):
            return {}
        if not isinstance(node, Mapping):
            return self._mismatch(node, kind, path)
        result, good = {}, True
        for name, (key, value) in _entries(node).items():
            built_key = self.build(key, kind.key_type, (*path, name), key)
            built = self.build(value, kind.value_type, (*path, name), key)
            good = good and built_key is not BAD and built is not BAD
            if good:
                result[built_key] = built
        return result if good else BAD

    def _collection(self, node: Node, kind: mi.Type, path: Path) -> object:
        if is_blank(node):
            node = Sequence(node.source, node.line, node.column)
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

    def _anything(self, node: Node) -> object:
        if isinstance(node, Mapping):
            return {key.value: self._anything(value) for key, value in node.entries}
        if isinstance(node, Sequence):
            return [self._anything(item) for item in node.items]
        if node.tag == "null":
            return None
        return node.value.lower() in ("true", "yes", "on") if node.tag == "bool" else plain(node)


def _homes(name: str, fields: Iterable[mi.Field]) -> list[str]:
    """The sections among the fields that have a key of this name."""
    homes = []
    for field in fields:
        inner = bare(field.type)
        kinds = inner.types if isinstance(inner, mi.UnionType) else (inner,)
        known = (one.encode_name for kind in kinds if isinstance(kind, mi.StructType) for one in kind.fields)
        if name in known:
            homes.append(field.encode_name)
    return homes


def _shape_fits(node: Node, kind: mi.Type) -> bool:
    if isinstance(node, Mapping):
        return isinstance(kind, _MAPPINGS)
    if isinstance(node, Sequence):
        return isinstance(kind, _COLLECTIONS)
    return not isinstance(kind, _MAPPINGS + _COLLECTIONS)


def _entries(node: Mapping) -> dict[str, tuple[Scalar, Node]]:
    return {key.value: (key, value) for key, value in node.entries}
