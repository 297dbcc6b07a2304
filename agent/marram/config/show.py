"""The whole effective configuration as YAML that loads to the same, each value with where it came from."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as mi
import yaml

from marram.config.expected import bare, reader_of
from marram.config.layers import EXTENDS
from marram.config.load import Loaded
from marram.config.nodes import Node, Sequence, entry
from marram.config.values import Reader
from marram.config.versions import CURRENT
from marram.config.versions import KEY as VERSION

_LEFT_OUT = (VERSION, EXTENDS)
_WIDTH = 1 << 20


def show(loaded: Loaded[Any], origins: bool) -> str:
    """The configuration's text. origins: name the layers, and beside each value the one that it is of."""
    lines: list[Line] = [(f"{VERSION}: {CURRENT}", "")]
    lines += _struct(loaded.value, loaded.merged.root, "", leave_out=_LEFT_OUT)
    if not origins:
        return "".join(f"{text}\n" for text, _ in lines)
    width = min(max((len(text) for text, origin in lines if origin), default=0), 60)
    head = ["# layers, the lowest first:", *(f"#   {source.name}" for source in loaded.merged.sources)]
    body = [f"{text:<{width}}  # {origin}" if origin else text for text, origin in lines]
    return "".join(f"{line}\n" for line in head + body)


Line = tuple[str, str]


def _struct(
    value: msgspec.Struct, node: Node | None, indent: str, leave_out: tuple[str, ...] = ()
) -> Iterator[Line]:
    """Lines and their origins. A struct has at least one key, as nothing else is configured."""
    config = value.__struct_config__
    if config.tag is not None:
        tag = entry(node, config.tag_field or "type")
        yield f"{indent}{config.tag_field}: {_scalar(config.tag, None)}", _origin(tag)
    for field in mi.type_info(type(value)).fields:  # type: ignore[attr-defined]
        if field.encode_name not in leave_out:
            inner = entry(node, field.encode_name)
            yield from _entry(
                field.encode_name, getattr(value, field.name), reader_in(field.type), inner, indent
            )


def _entry(key: str, value: object, reader: Reader | None, node: Node | None, indent: str) -> Iterator[Line]:
    head = f"{indent}{_scalar(key, None)}:"
    if isinstance(value, msgspec.Struct):
        yield head, ""
        yield from _struct(value, node, indent + "  ")
    elif isinstance(value, dict) and value:
        yield head, ""
        for name, inner in value.items():
            yield from _entry(name, inner, reader, entry(node, name), indent + "  ")
    elif isinstance(value, tuple) and any(isinstance(item, msgspec.Struct | dict) for item in value):
        yield head, ""
        items = node.items if isinstance(node, Sequence) else [None] * len(value)
        for item, inner in zip(value, items, strict=True):
            (first, origin), *rest = _struct(item, inner, f"{indent}    ")
            yield f"{indent}  - {first.lstrip()}", origin
            yield from rest
    elif isinstance(value, tuple):
        yield f"{head} [{', '.join(_scalar(item, reader) for item in value)}]", _origin(node)
    else:
        yield f"{head} {_scalar(value, reader)}", _origin(node)


def _origin(node: Node | None) -> str:
    return "default" if node is None else node.source.place(node.line)


def reader_in(kind: mi.Type) -> Reader | None:
    """The notation that values of a type are written in, those inside a list, a mapping or a choice too."""
    reader = reader_of(kind)
    if reader is not None:
        return reader
    match bare(kind):
        case mi.UnionType(types=kinds):
            return next((found for one in kinds if (found := reader_in(one))), None)
        case mi.VarTupleType(item_type=inner) | mi.DictType(value_type=inner):
            return reader_in(inner)
    return None


def _scalar(value: object, reader: Reader | None) -> str:
    if value is None:
        return "~"
    if value == {}:
        return "{}"
    if reader is not None and reader.write is not None:
        return reader.write(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, int | float):
        return repr(value)
    text = str(value.value) if isinstance(value, Enum) else str(value)
    assert isinstance(value, str | Path | Enum), value
    if text.isprintable():
        plain: str = yaml.safe_dump(text, width=_WIDTH, allow_unicode=True)
        return plain.removesuffix("\n...\n").rstrip("\n")
    quoted: str = yaml.safe_dump(text, width=_WIDTH, default_style='"')
    return quoted.rstrip("\n")
