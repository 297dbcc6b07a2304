"""Plugins, one file each: what a YAML section may name as its ``type``.

A plugin is a module with one struct, a subclass of the registry's base tagged by ``type``, and a function
``open(config, context)``. It stands in the registry's package, or any installed distribution names it in
the registry's entry point group. A plugin that cannot be imported is kept by name with the reason: that
is reported, and is an error only for a configuration that asks for it.

Plugins import heavy libraries inside ``open`` or later, so that knowing all plugins costs little.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from types import ModuleType
from typing import Annotated, Generic, TypeVar, Union

import msgspec

from marram.errors import MarramError

Name = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$(?!\n)", examples=["watch", "press_07"])
]
"""What one configured sensor or output is called."""

C = TypeVar("C", bound=msgspec.Struct)
T = TypeVar("T")


@dataclass(frozen=True)
class Plugin:
    """One kind that can be configured: the value of ``type``, its config struct, the module of both."""

    name: str
    config: type[msgspec.Struct]
    module: ModuleType


class Registry(Generic[C, T]):
    """The plugins of one package and one entry point group; ``base`` is what their structs derive from."""

    def __init__(self, package: str, group: str, base: type[C]) -> None:
        self._package = package
        self._group = group
        self._base = base

    @property
    def plugins(self) -> dict[str, Plugin]:
        """What can be used here, by name."""
        return self._discovered[0]

    @property
    def broken(self) -> dict[str, str]:
        """What is installed but cannot be imported, by name, with the reason."""
        return self._discovered[1]

    def union(self) -> object:
        """The tagged union of all config structs, for a field of a configuration struct.

        A broken plugin takes part with a struct that accepts any key and reports why it cannot be used.
        """
        members = [plugin.config for plugin in self.plugins.values()]
        members += [self._unavailable(name, reason) for name, reason in self.broken.items()]
        return Union[tuple(members)]  # noqa: UP007  (made at run time)

    def open(self, config: C, context: object) -> T:
        """Open what the config struct describes. Raises the errors of the plugin."""
        for plugin in self.plugins.values():
            if type(config) is plugin.config:
                opened: T = plugin.module.open(config, context)
                return opened
        raise MarramError(f"no plugin of {self._package} takes a {type(config).__name__}")

    @cached_property
    def _discovered(self) -> tuple[dict[str, Plugin], dict[str, str]]:
        plugins: dict[str, Plugin] = {}
        broken: dict[str, str] = {}
        for name, target in self._targets():
            try:
                plugin = self._plugin(importlib.import_module(target))
            except Exception as error:  # whatever a foreign module raises must not end the agent
                broken.setdefault(name, f"{type(error).__name__}: {error}")
                continue
            if plugin is not None:
                plugins.setdefault(plugin.name, plugin)
            elif not target.startswith(f"{self._package}."):
                broken.setdefault(
                    name, f"{target} has no {self._base.__name__} with a tag of its own, or no function open"
                )
        return plugins, broken

    def _targets(self) -> Iterator[tuple[str, str]]:
        package = importlib.import_module(self._package)
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
            yield module.name, f"{self._package}.{module.name}"
        for entry in sorted(entry_points(group=self._group), key=lambda entry: entry.name):
            yield entry.name, entry.value

    def _plugin(self, module: ModuleType) -> Plugin | None:
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, self._base)
                and value.__module__ == module.__name__
                and value.__struct_config__.tag is not None
                and callable(getattr(module, "open", None))
            ):
                return Plugin(str(value.__struct_config__.tag), value, module)
        return None

    def _unavailable(self, name: str, reason: str) -> type[msgspec.Struct]:
        def problems(self: msgspec.Struct) -> Iterable[tuple[tuple[str], str]]:
            yield ("type",), f"{name!r} is installed but cannot be used: {reason}"

        return msgspec.defstruct(
            f"Unavailable_{name}",
            [],
            tag_field="type",
            tag=name,
            frozen=True,
            namespace={"problems": problems, "__doc__": f"Cannot be used here: {reason}"},
        )
