"""Configurations as trees that can be written in many styles of YAML, with the place of every key and value.

A tree is a ``Keys`` (pairs, so that a key can stand twice), a list, or a str: a scalar as YAML spells it.
``write`` gives the text and where things stand in it, which is what the loader must report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
HOST_BUNDLE = ROOT / "examples/host/host.marram"
SHOULDER_BUNDLE = ROOT / "examples/shoulder/shoulder.marram"
RECORDING = ROOT / "examples/shoulder/recordings/person-01.csv.gz"


@dataclass
class Keys:
    """A mapping as it stands in the file."""

    pairs: list[tuple[str, Tree]] = field(default_factory=list)

    def __getitem__(self, key: str) -> Tree:
        return next(value for name, value in self.pairs if name == key)

    def names(self) -> list[str]:
        return [name for name, _ in self.pairs]

    def put(self, key: str, value: Tree) -> None:
        """Replace the value of a key, or add it."""
        self.pairs = [(name, value if name == key else old) for name, old in self.pairs]
        if key not in self.names():
            self.pairs.append((key, value))

    def remove(self, key: str) -> None:
        self.pairs = [pair for pair in self.pairs if pair[0] != key]


Tree = Keys | list["Tree"] | str
Route = tuple[str | int, ...]


def keys(**pairs: Tree) -> Keys:
    return Keys(list(pairs.items()))


def at(tree: Tree, route: Route) -> Tree:
    """The part of a tree at a route of keys and indexes."""
    for step in route:
        assert isinstance(tree, Keys | list)
        tree = tree[step]  # type: ignore[index, call-overload]
    return tree


@dataclass
class Written:
    """key, value: (line, column), 1-based, by route; of a key that stands twice the second."""

    text: str = ""
    key: dict[Route, tuple[int, int]] = field(default_factory=dict)
    value: dict[Route, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Style:
    """How to write: spaces per level, whether list items are indented below their key, and three choices
    that are asked at every place: flow or block, a comment line before it, single or double quotes."""

    indent: int = 2
    indented_lists: bool = True
    flow: Callable[[], bool] = lambda: False
    comment: Callable[[], bool] = lambda: False


def write(tree: Tree, style: Style | None = None) -> Written:
    writer = _Writer(style or Style())
    writer.block(tree, 0, ())
    writer.out.text = "".join(writer.parts)
    return writer.out


class _Writer:
    def __init__(self, style: Style) -> None:
        self.style, self.out, self.parts = style, Written(), []
        self.line, self.column = 1, 1

    def put(self, text: str) -> None:
        self.parts.append(text)
        for char in text:
            self.line, self.column = (self.line + 1, 1) if char == "\n" else (self.line, self.column + 1)

    def here(self) -> tuple[int, int]:
        return self.line, self.column

    def block(self, tree: Tree, indent: int, route: Route) -> None:
        """A mapping or a list whose lines begin at ``indent``; the first one where the writer is."""
        if not isinstance(tree, Keys | list) or not (tree.pairs if isinstance(tree, Keys) else tree):
            self.flow(tree, route)
            self.put("\n")
            return
        entries = tree.pairs if isinstance(tree, Keys) else list(enumerate(tree))
        for index, (step, value) in enumerate(entries):
            if index or self.column == 1:
                if self.style.comment():
                    self.put(f"{' ' * indent}# über: [nothing]\n\n")
                self.put(" " * indent)
            if index == 0:
                self.out.value.setdefault(route, self.here())
            inner = (*route, step)
            if isinstance(tree, Keys):
                self.out.key[inner] = self.here()
                self.put(f"{step}:")
                self.under_key(value, indent, inner)
            else:
                self.put("- ")
                self.out.value.pop(inner, None)
                self.item(value, indent + 2, inner)

    def under_key(self, value: Tree, indent: int, route: Route) -> None:
        self.out.value.pop(route, None)
        if (
            isinstance(value, str)
            or self.style.flow()
            or not (value.pairs if isinstance(value, Keys) else value)
        ):
            self.put(" " if value != "" else "")
            self.flow(value, route)
            self.put("\n")
            return
        self.put("\n")
        listed = isinstance(value, list) and not self.style.indented_lists
        self.block(value, indent if listed else indent + self.style.indent, route)

    def item(self, value: Tree, indent: int, route: Route) -> None:
        if isinstance(value, Keys) and value.pairs and not self.style.flow():
            self.block(value, indent, route)
        else:
            self.flow(value, route)
            self.put("\n")

    def flow(self, tree: Tree, route: Route) -> None:
        self.out.value[route] = self.here()
        if isinstance(tree, str):
            self.put(tree)
        elif isinstance(tree, Keys):
            self.put("{")
            for index, (step, value) in enumerate(tree.pairs):
                self.put(", " if index else "")
                self.out.key[(*route, step)] = self.here()
                self.put(f"{step}: ")
                self.flow(value, (*route, step))
            self.put("}")
        else:
            self.put("[")
            for index, value in enumerate(tree):
                self.put(", " if index else "")
                self.flow(value, (*route, index))
            self.put("]")


@st.composite
def styles(draw: st.DrawFn) -> Style:
    random = draw(st.randoms(use_true_random=False))
    flows, comments = draw(st.sampled_from([0.0, 0.3, 1.0])), draw(st.sampled_from([0.0, 0.3]))
    return Style(
        draw(st.sampled_from([1, 2, 4])),
        draw(st.booleans()),
        lambda: random.random() < flows,
        lambda: random.random() < comments,
    )


names = st.from_regex(r"[a-z][a-z0-9_]{0,8}x", fullmatch=True)
"""Names that YAML takes for nothing but text."""
durations = st.sampled_from(["30s", "5m", "2h", "7d", "250ms", "1.5", "12"])
sizes = st.sampled_from(["64MiB", "10MB", "1 GiB", "65536"])
brokers = st.sampled_from(["mqtt://host:1883", "mqtts://broker.example:8883", '"mqtt://[::1]:1883"'])
topics = st.sampled_from(["a", "plant/line-3/out", '"größe/x"'])


def numbers(low: float, high: float) -> st.SearchStrategy[str]:
    return st.floats(low, high, allow_nan=False).map(lambda x: f"{x:.6g}") | st.integers(
        int(low) + 1, int(high)
    ).map(str)


@st.composite
def sensors(draw: st.DrawFn, name: str) -> Keys:
    kind = draw(st.sampled_from(["host", "csv", "mqtt", "stdin"]))
    tree = keys(type=kind, name=name)
    if kind == "host":
        some(draw, tree, rate=numbers(0.1, 99))
    elif kind == "csv":
        tree.put("path", str(RECORDING))
        some(
            draw,
            tree,
            speed=st.sampled_from(["realtime", "max", "2.5", "10"]),
            repeat=st.sampled_from(["true", "no"]),
        )
        some(draw, tree, label=st.just("exercise"), broken=st.sampled_from(["error", "skip"]))
    else:
        channels = draw(st.lists(names, min_size=1, max_size=4, unique=True))
        paths = Keys([(channel, f"data.{channel}") for channel in channels])
        tree.put("channels", draw(st.sampled_from([channels, paths])))
        some(draw, tree, time=st.just("t"), time_unit=st.sampled_from(["s", "ms", "iso"]))
        if kind == "mqtt":
            tree.put("broker", draw(brokers))
            tree.put("topic", draw(topics))
            some(draw, tree, format=st.sampled_from(["json", "cbor"]), qos=st.sampled_from(["0", "1", "2"]))
    return tree


def some(draw: st.DrawFn, tree: Keys, **choices: st.SearchStrategy[Tree]) -> None:
    """Put some of the keys into the tree."""
    for key, strategy in choices.items():
        if draw(st.booleans()):
            tree.put(key, draw(strategy))


@st.composite
def configurations(draw: st.DrawFn) -> Keys:
    """Any valid configuration of the agent."""
    listed = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    tree = keys(sensors=[draw(sensors(name)) for name in listed], model=keys(bundle=str(HOST_BUNDLE)))
    model, device, stream = tree["model"], Keys(), Keys()
    assert isinstance(model, Keys)
    some(draw, model, threads=st.sampled_from(["1", "4"]), queue=st.integers(1, 5000).map(str))
    some(draw, device, name=names, state=st.just("state"), log_level=st.sampled_from(["debug", "error"]))
    channel = Keys()
    some(draw, channel, source=st.just(f"{listed[0]}.ax"), scale=numbers(0.1, 10), stuck_after=durations)
    if draw(st.booleans()):
        channel.put("min", "-5")
        channel.put("max", "1.0e+3")
    some(draw, stream, max_gap=durations, missing=st.sampled_from(["interpolate", "drop"]))
    some(draw, stream, channels=st.just(keys(ax=channel)))
    store, governor, learning = Keys(), Keys(), Keys()
    some(draw, store, max_bytes=sizes, max_age=durations)
    some(draw, governor, max_cpu=numbers(0, 100), quiet_hours=st.just(['"22:00-06:00"', "12:30-13:15"]))
    some(draw, governor, on_battery=st.sampled_from(["true", "off", "yes"]))
    some(
        draw,
        learning,
        store=st.just(store),
        governor=st.just(governor),
        holdout=st.sampled_from(["0", "0.25", "2.0e-1"]),
    )
    outputs = [keys(type="stdout"), keys(type="jsonl", path="out/x.jsonl", max_bytes="16MiB")]
    outputs.append(keys(type="mqtt", broker=draw(brokers), topic='"predictions/{device}"'))
    some(draw, tree, device=st.just(device), stream=st.just(stream), learning=st.just(learning))
    some(draw, tree, outputs=st.permutations(outputs).map(lambda them: them[:2]))
    some(draw, tree, labels=st.just(keys(mqtt=keys(broker="mqtt://host", topic='"labels/#"'))))
    tree.pairs = draw(st.permutations(tree.pairs))
    return tree
