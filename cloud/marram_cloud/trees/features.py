"""What a forest looks at in a window, as a program: ``features.onnx``, (x) -> float32 (batch, F)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
from marram.programs.program import load
from numpy.typing import NDArray

from marram_cloud.trees.graph import Graph, floats

Statistic = Literal["mean", "deviation", "minimum", "maximum", "rms", "change"]
Features = Literal["values"] | Annotated[tuple[Statistic, ...], msgspec.Meta(min_length=1)]
"""``values``: each sample of each channel. Else these figures of each channel over the window."""


def names(features: Features, channels: Sequence[str], length: int) -> list[str]:
    """Of the features, in their order: all of the first channel, then all of the next."""
    if features != "values":
        return [f"{channel}.{one}" for channel in channels for one in features]
    return [f"{one}[{place}]" if length > 1 else one for one in channels for place in range(length)]


def program(features: Features, channels: int, length: int) -> bytes:
    """``features.onnx`` for windows float32 (batch, channels, length)."""
    graph = Graph("features_")
    if features == "values":
        count, parts = channels * length, "x"
    else:
        count = channels * len(features)
        columns = [_STATISTICS[one](graph) for one in features]
        parts = graph.node("Concat", columns, axis=2)
    graph.node("Reshape", [parts, graph.constant([-1, count])], "features")
    return graph.model([floats("x", "batch", channels, length)], [floats("features", "batch", count)])


def of_windows(content: bytes, windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The features (n, F) of windows (n, channels, length), as the device computes them."""
    return load(content, "onnx")(x=windows)["features"].astype(np.float32)


def _reduced(operator: str, graph: Graph, of: str) -> str:
    return graph.node(operator, [of, graph.constant([2])], keepdims=1)


def _mean(graph: Graph) -> str:
    return _reduced("ReduceMean", graph, "x")


def _root_mean_square(graph: Graph, of: str) -> str:
    return graph.node("Sqrt", [_reduced("ReduceMean", graph, graph.node("Mul", [of, of]))])


def _change(graph: Graph) -> str:
    """The mean size of the step from a sample to the next; 0 in a window of one sample."""
    ends = [
        graph.node("Slice", ["x", graph.constant([first]), graph.constant([last]), graph.constant([2])])
        for first, last in ((1, np.iinfo(np.int64).max), (0, -1))
    ]
    steps = graph.node("Abs", [graph.node("Sub", ends)])
    return graph.node("Div", [_reduced("ReduceSum", graph, steps), _steps(graph)])


def _steps(graph: Graph) -> str:
    length = graph.node("Cast", [graph.node("Shape", ["x"], start=2, end=3)], to=1)
    one = graph.constant([1.0], np.float32)
    return graph.node("Max", [graph.node("Sub", [length, one]), one])


_STATISTICS: dict[str, Callable[[Graph], str]] = {
    "mean": _mean,
    "deviation": lambda graph: _root_mean_square(graph, graph.node("Sub", ["x", _mean(graph)])),
    "minimum": lambda graph: _reduced("ReduceMin", graph, "x"),
    "maximum": lambda graph: _reduced("ReduceMax", graph, "x"),
    "rms": lambda graph: _root_mean_square(graph, "x"),
    "change": _change,
}
