"""Load one YAML file into a struct, or say everything that is wrong with it.

    config = load(Path("marram.yaml"), Agent)

A struct may have a method ``problems(self) -> Iterable[tuple[tuple[str | int, ...], str]]`` for what no
single field can tell; it yields paths relative to itself and messages, reported at their place.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TypeVar

import msgspec.inspect as mi

from marram.config.nodes import Mapping, UnreadableError, compose
from marram.config.problems import InvalidConfigError, Problem
from marram.config.values import Place
from marram.config.walk import MAX_VALUES, TooManyValuesError, Walker
from marram.errors import ConfigError

MAX_BYTES = 1 << 20

T = TypeVar("T")


def load(path: Path, type: type[T], *, check_files: bool = True) -> T:
    """The configuration in a file. Relative paths in it begin at the file's own folder.

    check_files: look whether files and folders that must exist do; off to check a file meant for another
    machine. Raises ConfigError (InvalidConfigError, where the text itself is at fault).
    """
    text = _read(path)
    return loads(text, type, source=str(path), place=Place(path.absolute().parent, check_files))


def loads(text: str, type: type[T], source: str, place: Place) -> T:
    """As ``load``, of a text; ``source`` names it in messages. Raises InvalidConfigError."""
    try:
        root = compose(text)
    except UnreadableError as error:
        raise InvalidConfigError(source, text, [error.problem]) from error
    if root is None:
        root = Mapping(1, 1)
    walker = Walker(place)
    try:
        value = walker.build(root, mi.type_info(type), (), root)
    except TooManyValuesError as error:
        message = f"expected at most {MAX_VALUES} values, found more once the aliases are followed"
        raise InvalidConfigError(source, text, [Problem(1, 1, (), message)]) from error
    if walker.problems:
        raise InvalidConfigError(source, text, walker.problems)
    assert isinstance(value, type)
    return value


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder: name the YAML file in it") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist: write it, or name another file with --config") from error
    except OSError as error:
        reason = error.strerror or errno.errorcode.get(error.errno or 0, "error")
        raise ConfigError(f"{path} cannot be read: {reason}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES >> 10} KiB: this is not a configuration file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        begin = data.rfind(b"\n", 0, error.start) + 1
        column = len(data[begin : error.start].decode("utf-8", "replace")) + 1
        message = f"expected UTF-8 text, found the byte 0x{data[error.start]:02x}: save the file as UTF-8"
        raise InvalidConfigError(str(path), "", [Problem(line, column, (), message)]) from error
