"""One YAML scalar to one Python value of a wanted type, past the traps of YAML 1.1.

YAML 1.1 takes ``on`` and ``yes`` for booleans, ``1e-3`` for text, ``010`` for eight and ``12:30`` for 750.
Where what was meant is certain it is accepted; where it is not, the message says how to write it.
"""

from __future__ import annotations

import math
import re
from enum import Enum

import msgspec.inspect as mi

from marram.config.expected import bare, did_you_mean, expected, found
from marram.config.nodes import Scalar
from marram.config.values import Place, Plain, Reader

# Longer ones are read as floats: int() raises for thousands of digits, and nothing here is that large.
_DECIMAL = re.compile(r"^[-+]?(0|[1-9][0-9_]{0,30})$")
_BASED = re.compile(r"^[-+]?(0x[0-9a-fA-F_]{1,24}|0b[01_]{1,96})$")
_FLOAT = re.compile(r"^[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$")
_TRUE = {"true", "yes", "on"}
_FALSE = {"false", "no", "off"}
_LARGEST = (1 << 63) - 1


class MismatchError(Exception):
    """The scalar is not of the wanted type; the text is the whole message to show."""


def convert(node: Scalar, kind: mi.Type) -> object:
    """The value of a scalar as ``kind``, a scalar type or one with metadata. Raises MismatchError."""
    words = expected(kind)
    match inner := bare(kind):
        case mi.StrType():
            value: object = _text(node, words)
        case mi.BoolType():
            value = _boolean(node, words)
        case mi.IntType():
            value = _integer(node, words)
        case mi.FloatType():
            value = _number(node, words)
        case mi.LiteralType(values=values):
            return _choice(node, words, {str(value): value for value in values})
        case mi.EnumType(cls=cls):
            return _choice(node, words, {str(member.value): member for member in cls})
        case mi.NoneType():
            if node.tag != "null":
                raise MismatchError(_mismatch(words, node))
            return None
        case _:
            raise TypeError(f"the configuration loader does not know the type {kind}")
    check(value, inner, node, words)
    return value


def read(node: Scalar, kind: mi.Type, reader: Reader, place: Place) -> object:
    """The value of a scalar in a notation of its own. Raises MismatchError."""
    try:
        value = reader.read(plain(node), place)
    except ValueError as error:
        raise MismatchError(str(error) or _mismatch(reader.expected, node)) from error
    check(value, bare(kind), node, expected(kind))
    return value


def plain(node: Scalar) -> Plain:
    """A number where the scalar certainly is one, else its text."""
    if node.plain and _DECIMAL.match(node.value):
        return int(node.value.replace("_", ""))
    if node.plain and _FLOAT.match(node.value) and not re.match(r"^[-+]?0[0-9]", node.value):
        return float(node.value.replace("_", ""))
    return node.value


def check(value: object, kind: mi.Type, node: Scalar, words: str) -> None:
    """Raise MismatchError, with what is expected in ``words``, where a constraint of the type is broken."""
    if isinstance(value, str) and isinstance(kind, mi.StrType):
        fits = (
            (kind.min_length is None or len(value) >= kind.min_length)
            and (kind.max_length is None or len(value) <= kind.max_length)
            and (kind.pattern is None or re.search(kind.pattern, value) is not None)
        )
    elif isinstance(value, int | float) and isinstance(kind, mi.IntType | mi.FloatType):
        fits = (
            (kind.ge is None or value >= kind.ge)
            and (kind.gt is None or value > kind.gt)
            and (kind.le is None or value <= kind.le)
            and (kind.lt is None or value < kind.lt)
            and (kind.multiple_of is None or math.isclose(math.remainder(value, kind.multiple_of), 0))
        )
    else:
        fits = True
    if not fits:
        raise MismatchError(_mismatch(words, node))


def _mismatch(words: str, node: Scalar, hint: str = "") -> str:
    return f"expected {words}, found {found(node)}{hint}"


def _text(node: Scalar, words: str) -> str:
    if node.tag in ("str", "timestamp", "merge"):
        return node.value
    if node.tag == "bool":
        hint = f', which YAML reads as a boolean (put it in quotes: "{node.value}")'
    elif node.tag == "null" and node.value:
        hint = f', because YAML reads {node.value} so (put it in quotes: "{node.value}")'
    elif node.tag == "null":
        hint = ""
    else:
        hint = f' (put it in quotes: "{node.value}")'
    raise MismatchError(_mismatch(words, node, hint))


def _boolean(node: Scalar, words: str) -> bool:
    if node.tag == "bool" and node.value.lower() in _TRUE | _FALSE:
        return node.value.lower() in _TRUE
    hint = did_you_mean(node.value, ("true", "false")) if node.tag == "str" else ""
    if not node.plain and node.value.lower() in ("true", "false"):
        hint = " (take the quotes away)"
    raise MismatchError(_mismatch(words, node, hint))


def _integer(node: Scalar, words: str) -> int:
    number = int(node.value.replace("_", ""), 0) if _based(node) else plain(node)
    if isinstance(number, str) or abs(number) > _LARGEST or number != int(number):
        raise MismatchError(_mismatch(words, node, _number_hint(node)))
    return int(number)


def _number(node: Scalar, words: str) -> float:
    number = int(node.value.replace("_", ""), 0) if _based(node) else plain(node)
    if isinstance(number, str) or not math.isfinite(number):
        raise MismatchError(_mismatch(words, node, _number_hint(node)))
    return float(number)


def _based(node: Scalar) -> bool:
    return node.plain and _BASED.match(node.value) is not None


def _number_hint(node: Scalar) -> str:
    if not node.plain and _FLOAT.match(node.value):
        return " (take the quotes away)"
    if node.tag == "int" and ":" in node.value:
        return ", which YAML reads as a number to the base 60"
    if node.tag == "int" and re.match(r"^[-+]?0[0-9]", node.value):
        return ", which YAML reads as octal: leave the leading zero out"
    return ""


def _choice(node: Scalar, words: str, values: dict[str, object]) -> object:
    # The text decides, not YAML's idea of it: a plain `off` may well be one of the words.
    if node.value in values and (node.plain or isinstance(values[node.value], str | Enum)):
        return values[node.value]
    raise MismatchError(_mismatch(words, node, did_you_mean(node.value, values)))
