"""One layer of a configuration above another, as trees without shorthand.

- Two mappings become one, key by key; but one whose ``type`` is another replaces what is below.
- A list replaces the list below, unless all items of both have a ``name``: then items of one name are merged,
  new ones are added at the end, and ``{name: x, remove: true}`` takes x away. An empty list empties.
- Anything else replaces what is below. A key with nothing under it leaves it as it is; ``~`` takes it away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Steps

from marram.config.expected import did_you_mean
from marram.config.nodes import Mapping, Node, Scalar, Sequence, entry, is_blank
from marram.config.problems import Key, Path, Problem

_TYPE, _NAME, _REMOVE = "type", "name", "remove"


class Merger:
    """Merges, and collects what cannot be merged in ``problems``."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def merge(self, under: Node, over: Node, path: Path = ()) -> Node:
        """``over`` above ``under``; neither is changed."""
        if is_blank(over) and isinstance(under, Mapping):
            return under
        if isinstance(under, Mapping) and isinstance(over, Mapping) and not _other_type(under, over):
            entries = {key.value: (key, value) for key, value in under.entries}
            for key, value in over.entries:
                below = entries[key.value][1] if key.value in entries else None
                merged = value if below is None else self.merge(below, value, (*path, key.value))
                entries[key.value] = (key, merged)
            return Mapping(over.source, over.line, over.column, list(entries.values()))
        if isinstance(under, Sequence) and isinstance(over, Sequence) and _named(under) and _named(over):
            return self._by_name(under, over, path)
        return over

    def put(self, tree: Node, steps: Steps[Key], value: Node, folded: bool = False, path: Path = ()) -> Node:
        """``value`` above what stands in the tree at the steps; what lacks on the way there is made.

        An item of a list is meant by its number or its name. folded: steps are in small letters and mean a
        key whatever its letters are.
        """
        if not steps:
            return self.merge(tree, value, path)
        step, rest = steps[0], steps[1:]
        if isinstance(tree, Sequence):
            index = _index(tree, step, folded)
            if index is None:
                names = [name for item in tree.items if (name := _name(item))]
                known = f"the names are {', '.join(names)}" if names else f"it has {len(tree.items)}"
                hint = did_you_mean(str(step), names) or f"; {known}"
                self._bad(value, (*path, step), f"the list has no such item{hint}")
                return tree
            items = list(tree.items)
            items[index] = self.put(items[index], rest, value, folded, (*path, index))
            return Sequence(tree.source, tree.line, tree.column, items)
        entries = (
            {key.value: (key, inner) for key, inner in tree.entries} if isinstance(tree, Mapping) else {}
        )
        name = str(step)
        if folded and name not in entries:
            name = next((known for known in entries if known.lower() == name), name)
        nothing = Scalar(value.source, value.line, value.column, "", "null", True)
        key = Scalar(value.source, value.line, value.column, name, "str", True)
        inner = entries[name][1] if name in entries else nothing
        entries[name] = (key, self.put(inner, rest, value, folded, (*path, name)))
        return Mapping(value.source, value.line, value.column, list(entries.values()))

    def _by_name(self, under: Sequence, over: Sequence, path: Path) -> Sequence:
        items: list[Node | None] = list(under.items)
        index = {_name(item): at for at, item in reversed(list(enumerate(under.items)))}
        # A name that stands twice in one list is a mistake, which shall not vanish by merging.
        once = {name for name, count in Counter(map(_name, over.items)).items() if count == 1}
        for number, item in enumerate(over.items):
            name = _name(item)
            at = index.get(name)
            below = None if at is None else items[at]
            if _removes(item) and at is not None:
                items[at] = None
            elif _removes(item):
                hint = did_you_mean(name, index)
                self._bad(item, (*path, number), f"there is no {name!r} below to take away{hint}")
            elif at is not None and below is not None and name in once:
                items[at] = self.merge(below, item, (*path, at))
            else:
                items.append(item)
        return Sequence(over.source, over.line, over.column, [item for item in items if item is not None])

    def _bad(self, node: Node, path: Path, message: str) -> None:
        self.problems.append(Problem(node.source, node.line, node.column, path, message))


def _other_type(under: Mapping, over: Mapping) -> bool:
    below, above = entry(under, _TYPE), entry(over, _TYPE)
    return isinstance(below, Scalar) and isinstance(above, Scalar) and below.value != above.value


def _name(item: Node) -> str:
    name = entry(item, _NAME)
    return name.value if isinstance(name, Scalar) else ""


def _named(node: Sequence) -> bool:
    return bool(node.items) and all(_name(item) for item in node.items)


def _removes(item: Node) -> bool:
    wish = entry(item, _REMOVE)
    alone = isinstance(item, Mapping) and len(item.entries) == 2
    return alone and isinstance(wish, Scalar) and wish.tag == "bool" and wish.value.lower() == "true"


def _index(node: Sequence, step: Key, folded: bool) -> int | None:
    for index, item in enumerate(node.items):
        name = _name(item)
        if name and (name == step or (folded and name.lower() == step)):
            return index
    if str(step).isdecimal() and int(step) < len(node.items):
        return int(step)
    return None
