"""Types and YAML nodes in words: what a configuration was expected to hold, and what it holds."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import msgspec.inspect as mi

from marram.config.nodes import Mapping, Node, Scalar, Sequence
from marram.config.problems import printable
from marram.config.values import Reader

_WORD = re.compile(r"[\w.-]+")


def reader_of(kind: mi.Type) -> Reader | None:
    """The reader of a type from ``marram.config.values``, or None."""
    if isinstance(kind, mi.Metadata):
        return (kind.extra or {}).get("reader")
    return None


def bare(kind: mi.Type) -> mi.Type:
    """The type without its metadata."""
    return kind.type if isinstance(kind, mi.Metadata) else kind


def expected(kind: mi.Type) -> str:
    """What a value of the type looks like, to follow the word "expected"."""
    reader = reader_of(kind)
    if reader:
        return reader.expected + _bounds(bare(kind))
    if isinstance(kind, mi.Metadata):
        examples = (kind.extra_json_schema or {}).get("examples", [])
        if examples and isinstance(kind.type, mi.StrType):
            return "text such as " + " or ".join(f'"{example}"' for example in examples)
        return expected(kind.type)
    return _plain(kind)


def _plain(kind: mi.Type) -> str:
    match kind:
        case mi.IntType():
            return "a whole number" + _bounds(kind)
        case mi.FloatType():
            return "a number" + _bounds(kind)
        case mi.BoolType():
            return "true or false"
        case mi.StrType():
            return "text" + _text_bounds(kind)
        case mi.NoneType():
            return "nothing"
        case mi.LiteralType(values=values):
            return _one_of(str(value) for value in values)
        case mi.EnumType(cls=cls):
            return _one_of(str(member.value) for member in cls)
        case mi.UnionType(types=types):
            return _union(types)
        case mi.TupleType(item_types=items):
            return f"a list of {len(items)} values"
        case mi.ListType() | mi.VarTupleType() | mi.SetType() | mi.FrozenSetType():
            return "a list" + _count_bounds(kind)
        case mi.StructType() | mi.DictType():
            return "a mapping (key: value)"
        case _:
            return "a value"


def _union(types: Iterable[mi.Type]) -> str:
    words = dict.fromkeys(expected(kind) for kind in types if not isinstance(kind, mi.NoneType))
    return " or ".join(words)


def _one_of(values: Iterable[str]) -> str:
    names = [value if _WORD.fullmatch(value) else _quoted(value) for value in values]
    return names[0] if len(names) == 1 else "one of " + ", ".join(names)


def _quoted(value: str) -> str:
    """As YAML would have it: a comma or a tab cannot stand in a sentence as it is."""
    return f'"{printable(value)}"'


def _number(value: float) -> str:
    """A limit without an exponent, as a person would write it."""
    return f"{value:.0f}" if value == int(value) else f"{value:g}"


def _bounds(kind: mi.Type) -> str:
    low, high = getattr(kind, "ge", None), getattr(kind, "le", None)
    if low is not None and high is not None:
        return f" from {_number(low)} to {_number(high)}"
    words = []
    for name, text in (("ge", "of at least"), ("gt", "above"), ("le", "of at most"), ("lt", "below")):
        limit = getattr(kind, name, None)
        if limit is not None:
            words.append(f"{text} {_number(limit)}")
    step = getattr(kind, "multiple_of", None)
    if step is not None:
        words.append(f"a multiple of {_number(step)}")
    return " " + " and ".join(words) if words else ""


def _text_bounds(kind: mi.StrType) -> str:
    words = []
    if kind.min_length is not None:
        words.append(f"at least {kind.min_length} characters")
    if kind.max_length is not None:
        words.append(f"at most {kind.max_length} characters")
    if kind.pattern is not None:
        words.append(f"the pattern {kind.pattern}")
    return " with " + " and ".join(words) if words else ""


def _count_bounds(kind: mi.CollectionType) -> str:
    words = []
    if kind.min_length is not None:
        words.append(f"at least {kind.min_length}")
    if kind.max_length is not None:
        words.append(f"at most {kind.max_length}")
    things = "item" if (kind.min_length, kind.max_length) in ((1, None), (None, 1)) else "items"
    return f" of {' and '.join(words)} {things}" if words else ""


def found(node: Node) -> str:
    """What stands in the file, to follow the word "found"."""
    match node:
        case Sequence(items=items):
            return f"a list of {len(items)}" if items else "an empty list"
        case Mapping():
            return "a mapping (key: value)"
        case Scalar(tag="null"):
            return "nothing"
        case Scalar(tag="int" | "float"):
            return f"the number {_short(node.value)}"
        case Scalar(tag="bool"):
            return _short(node.value)
        case Scalar():
            return f'the text "{_short(node.value)}"'


def _short(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= 60 else line[:57] + "..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` where a known word is close, else ``""``."""
    guess = closest(word, known)
    return f"; did you mean {guess!r}?" if guess else ""


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` is likely a misspelling of."""
    names = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return names[matches[0]] if matches else None
