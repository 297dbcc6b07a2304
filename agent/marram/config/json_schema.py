"""A configuration's JSON Schema, and what its docstrings say of each key.

The structs are the one description of a configuration. The lines ``key: text`` of a struct's docstring
describe its keys; those of its bases hold for it too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as mi

Struct = type[msgspec.Struct]


def json_schema(config: Struct, title: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a configuration, for editors."""
    schema = msgspec.json.schema(config, schema_hook=_foreign)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = title
    root = schema["$defs"][config.__name__]
    if getattr(config, "layered", False):
        root["anyOf"] = [{"required": root.pop("required")}, {"required": ["extends"]}]
    definitions = schema["$defs"]
    for kind in structs(config):
        qualified = f"{kind.cls.__module__}.{kind.cls.__name__}"
        definition = definitions[qualified if qualified in definitions else kind.cls.__name__]
        definition["description"], words = describe(kind.cls)
        if choices := _one_of(kind.cls):
            definition["oneOf"] = [{"required": [name]} for name in choices]
        for field in kind.fields:
            value = definition["properties"][field.encode_name]
            if field.encode_name in words:
                value["description"] = words[field.encode_name]
            if field.default_factory is not msgspec.NODEFAULT and isinstance(
                path := field.default_factory(), Path
            ):
                value["default"] = str(path)
            _allow_notations(value)
            if _may_be_empty(field.type):
                _allow_nothing(value)
    return schema


def structs(config: Struct) -> Iterator[mi.StructType]:
    """The struct itself and all that its fields may hold, each once, in the order of the fields."""
    seen: set[Struct] = set()

    def inside(kind: mi.Type) -> Iterator[mi.StructType]:
        match kind:
            case mi.Metadata(type=inner) | mi.VarTupleType(item_type=inner) | mi.DictType(value_type=inner):
                yield from inside(inner)
            case mi.UnionType(types=kinds):
                for choice in kinds:
                    yield from inside(choice)
            case mi.StructType(cls=cls) if cls not in seen:
                seen.add(cls)
                yield kind
                for field in kind.fields:
                    yield from inside(field.type)

    yield from inside(mi.type_info(config))


def describe(struct: Struct) -> tuple[str, dict[str, str]]:
    """What a docstring says of the whole struct, and of each key: its own words before those of its bases."""
    text, words = _parse(struct)
    for base in struct.__mro__[1:]:
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            words = {**_parse(base)[1], **words}
    return text, words


def _parse(struct: Struct) -> tuple[str, dict[str, str]]:
    kept: list[str] = []
    words: dict[str, str] = {}
    current: str | None = None
    for line in (inspect.getdoc(struct) or "").splitlines():
        key, colon, text = line.strip().partition(": ")
        if colon and key in struct.__struct_fields__:
            current, words[key] = key, text
        elif current is not None and line.strip():
            words[current] += " " + line.strip()
        else:
            current = None
            kept.append(line.strip())
    return "\n".join(kept).strip(), words


def _foreign(kind: type) -> dict[str, Any]:
    if kind is Path:
        return {"type": "string"}
    raise NotImplementedError(f"no JSON Schema for {kind}")


def _may_be_empty(kind: mi.Type) -> bool:
    """Whether the loader takes a key with nothing under it: for a section as it is by default, no entries."""
    match kind:
        case mi.Metadata(type=inner):
            return _may_be_empty(inner)
        case mi.StructType(cls=cls, fields=fields):
            return not any(field.required for field in fields) and not _one_of(cls)
        case mi.VarTupleType(min_length=least) | mi.ListType(min_length=least):
            return not least
        case mi.DictType():
            return True
    return False


def _one_of(struct: Struct) -> tuple[str, ...]:
    """Keys of which a section needs exactly one; its ``problems`` says the same."""
    names: tuple[str, ...] = getattr(struct, "one_of", ())
    return names


def _allow_nothing(value: dict[str, Any]) -> None:
    if "$ref" in value:
        value["anyOf"] = [{"type": "null"}, {"$ref": value.pop("$ref")}]
    elif isinstance(value.get("type"), str):
        value["type"] = [value["type"], "null"]


def _allow_notations(value: dict[str, Any]) -> None:
    """A number with a pattern may be written as text in that notation; msgspec insists on one type."""
    for choice in (value, *value.get("anyOf", ())):
        if choice.get("type") in ("integer", "number") and "pattern" in choice:
            choice["type"] = ["string", choice["type"]]
