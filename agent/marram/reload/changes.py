"""Two configurations: which keys differ, and what the daemon has to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from marram.config.problems import Key, dotted
from marram.config.schema import Agent
from marram.sensors.sensor import SensorConfig

Path = tuple[Key, ...]

NEEDS_RESTART: tuple[Path, ...] = (
    ("device", "name"),
    ("device", "state"),
    ("model", "bundle"),
    ("model", "file"),
    ("model", "description"),
    ("model", "parameters"),
    ("cloud",),
    ("control",),
)
"""Keys that a running daemon has built upon, with all below them."""

BEGINS_AT_START: tuple[Path, ...] = (("learning",), ("learning", "schedule"))
"""Sections that cannot come or go in a running daemon; what is in them may change."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What follows from the differences.

    changed: the keys that differ, as people write them. refused: those of them that need a restart; nothing
    may be done then. ended, begun: names of the sensors to stop, and to open and start; one that changed is
    in both. outputs, stream, model, labels: whether these are to be made anew.
    """

    changed: tuple[str, ...]
    refused: tuple[str, ...]
    ended: frozenset[str]
    begun: frozenset[str]
    outputs: bool
    stream: bool
    model: bool
    labels: bool


def plan(old: Agent, new: Agent) -> Plan:
    """What a daemon that runs with ``old`` does to run with ``new``."""
    paths = list(differences(old, new))
    ended, begun = _sensors(old, new)
    return Plan(
        changed=tuple(map(dotted, paths)),
        refused=tuple(dotted(path) for path in paths if _needs_restart(path)),
        ended=ended,
        begun=begun,
        outputs=_any(paths, "outputs"),
        stream=bool(ended or begun) or _any(paths, "stream"),
        model=_any(paths, "model", "threads") or _any(paths, "model", "providers"),
        labels=_any(paths, "labels"),
    )


def differences(old: object, new: object, path: Path = ()) -> Iterator[Path]:
    """Paths of the values that differ; a section, or an item with a name, that came or went is one."""
    if old == new:
        return
    if isinstance(old, msgspec.Struct) and type(old) is type(new):
        for name in old.__struct_fields__:
            yield from differences(getattr(old, name), getattr(new, name), (*path, name))
    elif isinstance(old, dict) and isinstance(new, dict):
        yield from _items(old, new, path)
    elif isinstance(old, tuple) and isinstance(new, tuple) and _named(old) and _named(new):
        before, after = ({one.name: one for one in items} for items in (old, new))
        if list(before) != list(after) and before == after:
            yield path  # in another order
        yield from _items(before, after, path)
    else:
        yield path


def _items(old: dict[Key, object], new: dict[Key, object], path: Path) -> Iterator[Path]:
    for key in dict.fromkeys([*old, *new]):
        if key in old and key in new:
            yield from differences(old[key], new[key], (*path, key))
        else:
            yield (*path, key)


def _named(items: tuple[object, ...]) -> bool:
    names = [getattr(item, "name", None) for item in items]
    return all(names) and len(set(names)) == len(names)


def _any(paths: list[Path], *start: str) -> bool:
    return any(path[: len(start)] == start for path in paths)


def _needs_restart(path: Path) -> bool:
    return path in BEGINS_AT_START or any(path[: len(start)] == start for start in NEEDS_RESTART)


def _sensors(old: Agent, new: Agent) -> tuple[frozenset[str], frozenset[str]]:
    """The sensors to stop, and those to open: what is opened with the same is left alone."""
    before, after = ({sensor.name: _opened_with(sensor, one) for sensor in one.sensors} for one in (old, new))
    ended = frozenset(name for name, what in before.items() if after.get(name) != what)
    begun = frozenset(name for name, what in after.items() if before.get(name) != what)
    return ended, begun


def _opened_with(sensor: SensorConfig, config: Agent) -> object:
    """All that a sensor knows when it is opened."""
    ports = [config.board.path(kind, str(getattr(sensor, key))) for key, kind in sensor.on_board.items()]
    return sensor, ports, config.stream.max_gap
