"""Writes the tables of docs/configuration.md from the configuration's structs; the text around them is ours.

    .venv/bin/python scripts/docs_configuration.py

With ``--print`` the page is printed and not written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import msgspec.inspect as mi
from marram.config.expected import bare, expected, reader_of
from marram.config.json_schema import Struct, describe
from marram.config.schema import Agent
from marram.config.show import reader_in
from marram_cloud.config.schema import Aggregator

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
ROOTS: dict[str, Struct] = {"agent": Agent, "aggregator": Aggregator}
# Defaults that are made when the file is read.
_MADE = {("device", "name"): "the host name", ("control", "socket"): "`marram.sock` in `device.state`"}


def page(text: str) -> str:
    """The page with every part between its two marks written anew."""
    for name, root in ROOTS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        tables = "\n".join(_sections(mi.type_info(root), (), set()))
        text, count = pattern.subn(lambda _: f"{begin}\n\n{tables}\n{end}", text)  # noqa: B023
        if count != 1:
            raise SystemExit(f"{PAGE}: expected the marks {begin} and {end} once, found them {count} times")
    return text


def _sections(kind: mi.StructType, path: tuple[str, ...], seen: set[Struct]) -> Iterator[str]:
    """A section's heading and table, then those of the sections in it."""
    if kind.cls in seen:
        return
    seen.add(kind.cls)
    text, words = describe(kind.cls)
    yield f"### {_heading(path, kind)}\n\n{_code(text)}\n"
    yield "| key | value | default | meaning |\n| --- | --- | --- | --- |"
    if kind.tag is not None:
        yield f"| `{kind.tag_field}` | `{kind.tag}` | needed | which kind this is |"
    for field in kind.fields:
        row = (
            f"`{field.encode_name}`",
            _value(field.type),
            _default(field, path),
            _code(words[field.encode_name]),
        )
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""
    for field in kind.fields:
        for inner in _inside(field.type):
            named = ("NAME",) if isinstance(bare(field.type), mi.DictType) else ()
            yield from _sections(inner, (*path, field.encode_name, *named), seen)


def _code(text: str) -> str:
    """A docstring's text as Markdown."""
    return text.replace("``", "`")


def _heading(path: tuple[str, ...], kind: mi.StructType) -> str:
    place = ".".join(path) or "The whole file"
    if kind.tag is not None and path[-1:] != ("strategy",):
        return f"`{place}`, type `{kind.tag}`"
    return f"`{place}`" if path else place


def _inside(kind: mi.Type) -> Iterator[mi.StructType]:
    match kind:
        case mi.Metadata(type=inner) | mi.VarTupleType(item_type=inner) | mi.DictType(value_type=inner):
            yield from _inside(inner)
        case mi.UnionType(types=kinds):
            for choice in kinds:
                yield from _inside(choice)
        case mi.StructType():
            yield kind


def _value(kind: mi.Type) -> str:
    """What may stand there, in the words of the error messages."""
    if reader_of(kind) is not None:
        return expected(kind)
    match bare(kind):
        case mi.StructType():
            return "a section"
        case mi.DictType(value_type=inner) if list(_inside(inner)):
            return "a section for each name"
        case mi.DictType(value_type=inner):
            return f"a mapping from names to {expected(inner)}"
        case mi.VarTupleType(item_type=inner) if list(_inside(inner)):
            return "a list of sections"
        case mi.VarTupleType(item_type=inner):
            return f"a list of: {_value(inner)}"
        case mi.UnionType(types=kinds):
            words = [_value(choice) for choice in kinds if not isinstance(bare(choice), mi.NoneType)]
            return " or ".join(dict.fromkeys(words))
    return expected(kind)


def _default(field: mi.Field, path: tuple[str, ...]) -> str:
    made = _MADE.get((*path[-1:], field.encode_name))
    if made is not None:
        return made
    if field.required:
        return "needed"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value in ((), {}, None, ""):
        return "none"
    if isinstance(value, msgspec.Struct):
        return "as below" if not _changed(value) else ", ".join(f"`{k}: {v:g}`" for k, v in _changed(value))
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value)
    reader = reader_in(field.type)
    written = reader.write(value) if reader is not None and reader.write is not None else _plain(value)
    return f"`{written}`"


def _changed(value: msgspec.Struct) -> list[tuple[str, float]]:
    """The keys of a section that is not as its own defaults say."""
    plain = type(value)()
    if plain == value:
        return []
    return [(name, getattr(value, name)) for name in value.__struct_fields__]


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        print(page(PAGE.read_text()), end="")
    else:
        PAGE.write_text(page(PAGE.read_text()))
