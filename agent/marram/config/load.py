"""Load a configuration into a struct, or say everything that is wrong with it.

    config = load(Path("marram.yaml"), Agent)

A struct whose class says ``layered`` may have bases, drop-ins and settings from outside the file (see
``marram.config.layers``); any other is one file.

A struct may have a method ``problems(self) -> Iterable[tuple[tuple[str | int, ...], str]]`` for what no
single field can tell; it yields paths relative to itself and messages, reported at their place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec.inspect as mi

from marram.config.layers import Merged, Over, read_alone, read_layers, tree
from marram.config.nodes import Mapping
from marram.config.problems import InvalidConfigError, Problem, Source
from marram.config.values import Place
from marram.config.walk import Walker

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """A configuration, and the layers that it was made of."""

    value: T
    merged: Merged


def load(path: Path, type: type[T], *, over: Over | None = None, check_files: bool = True) -> T:
    """The configuration in a file. Relative paths in it begin at the folder of the file that they stand in.

    over: environment and command line. check_files: look whether files and folders that must exist do; off
    to check a file meant for another machine. Raises ConfigError (InvalidConfigError, where a text is at
    fault).
    """
    return load_all(path, type, over=over, check_files=check_files).value


def load_all(path: Path, type: type[T], *, over: Over | None = None, check_files: bool = True) -> Loaded[T]:
    """As ``load``, with the layers."""
    layered = getattr(type, "layered", False)
    merged = read_layers(path, over or Over()) if layered else read_alone(path)
    return Loaded(_build(merged.root, type, check_files, merged.problems), merged)


def loads(text: str, type: type[T], source: str, place: Place) -> T:
    """As ``load``, of one text without other layers; ``source`` names it. Raises InvalidConfigError."""
    root, problems = tree(Source(source, text, place.folder))
    return _build(root, type, place.check_files, problems)


def _build(root: Mapping, type: type[T], check_files: bool, problems: Iterable[Problem]) -> T:
    walker = Walker(root, check_files)
    value = walker.value(mi.type_info(type))
    if found := [*problems, *walker.problems]:
        raise InvalidConfigError(found)
    assert isinstance(value, type)
    return value
