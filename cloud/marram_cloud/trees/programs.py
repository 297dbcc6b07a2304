"""The programs of a forest's bundle: each begins with the nodes of ``features.onnx``.

``predict`` and ``evaluate`` take the forest as the flat vector of ``marram.bundle.forest`` and walk all trees
of all windows at once, a level a turn, by Gather and comparison (the "tree traversal" of Hummingbird,
Nakandala et al. 2020). ``infer`` holds its forest in onnxruntime's own operator for trees, which is many
times faster but takes no forest from outside. Both compare in float32 and add up the same float32 votes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from marram.bundle.forest import Layout
from numpy.typing import NDArray
from onnx import TensorProto, helper

from marram_cloud.trees.graph import ML, Graph, floats, integers

_SURE = 1e-7  # no smaller probability is believed when the loss is measured


def predict(features: bytes, layout: Layout) -> bytes:
    """``predict.onnx``: (parameters, x) -> scores."""
    graph = Graph()
    graph.include(features)
    _scores(graph, layout)
    return graph.model(_inputs(features, layout), [floats("scores", "batch", layout.room.classes)])


def evaluate(features: bytes, layout: Layout) -> bytes:
    """``evaluate.onnx``: (parameters, x, y, weight) -> sums of loss, weight and right labels."""
    graph = Graph()
    graph.include(features)
    scores = _scores(graph, layout)
    axis = graph.constant([1])
    chosen = graph.node("GatherElements", [scores, graph.node("Unsqueeze", ["y", axis])], axis=1)
    surely = graph.node("Max", [graph.node("Squeeze", [chosen, axis]), graph.constant(_SURE, np.float32)])
    lost = graph.node("Mul", [graph.node("Neg", [graph.node("Log", [surely])]), "weight"])
    best = graph.node("ArgMax", [scores], axis=1, keepdims=0)
    right = graph.node("Cast", [graph.node("Equal", [best, "y"])], to=TensorProto.FLOAT)
    for name, summed in (
        ("loss", lost),
        ("count", "weight"),
        ("correct", graph.node("Mul", [right, "weight"])),
    ):
        graph.node("ReduceSum", [summed], name, keepdims=0)
    inputs = [*_inputs(features, layout), integers("y", "batch"), floats("weight", "batch")]
    return graph.model(inputs, [floats(name) for name in ("loss", "count", "correct")])


def infer(features: bytes, layout: Layout, vector: NDArray[np.float32]) -> bytes:
    """``infer.onnx``: (x) -> scores, of the forest in ``vector`` (P,). Raises BundleError for none."""
    forest = layout.unpack(vector)
    nodes: dict[str, Any] = {name: [] for name in _NODE}
    votes: dict[str, Any] = {name: [] for name in _VOTE}
    weights = forest.weights.astype(np.float32)
    for number, tree in enumerate(forest.trees):
        splits = len(tree.feature)
        for node in range(2 * splits + 1):
            split = node < splits
            left, right = tree.children[node].tolist() if split else (0, 0)
            said = (
                number, node, "BRANCH_LEQ" if split else "LEAF", int(tree.feature[node]) if split else 0,
                float(tree.threshold[node]) if split else 0.0, left, right,
            )  # fmt: skip
            for name, value in zip(_NODE, said, strict=True):
                nodes[name].append(value)
        for leaf, parts in enumerate(tree.leaves * weights[number]):
            # What adds nothing is left out, but a leaf may not stand without a word.
            for label in np.flatnonzero(parts):
                vote = number, splits + leaf, int(label), float(parts[label])
                for name, value in zip(_VOTE, vote, strict=True):
                    votes[name].append(value)
    graph = Graph()
    graph.include(features)
    summed = graph.node(
        "TreeEnsembleRegressor", ["features"], domain=ML, n_targets=layout.room.classes,
        aggregate_function="SUM",
        post_transform="NONE", **nodes, **votes,
    )  # fmt: skip
    graph.node("Div", [summed, graph.constant(weights.sum(dtype=np.float32), np.float32)], "scores")
    return graph.model([_windows(features)], [floats("scores", "batch", layout.room.classes)])


_NODE = (
    "nodes_treeids", "nodes_nodeids", "nodes_modes", "nodes_featureids", "nodes_values", "nodes_truenodeids",
    "nodes_falsenodeids",
)  # fmt: skip
_VOTE = "target_treeids", "target_nodeids", "target_ids", "target_weights"


def _windows(features: bytes) -> helper.ValueInfoProto:
    return onnx.load_from_string(features).graph.input[0]


def _inputs(features: bytes, layout: Layout) -> list[helper.ValueInfoProto]:
    return [floats("parameters", layout.size), _windows(features)]


def _scores(graph: Graph, layout: Layout) -> str:
    """Every window in every tree; the weighted mean of what the leaves say."""
    slots, room = layout.slots, layout.room
    splits, nodes = room.splits, 2 * room.splits + 1
    names = [f"forest_{tensor.name}" for tensor in layout.tensors()]
    sizes = [math.prod(map(int, tensor.shape)) for tensor in layout.tensors()]
    graph.nodes_out("Split", ["parameters", graph.constant(sizes)], names, axis=0)

    def table(name: str, leaves: NDArray[np.float32], whole: bool) -> str:
        """By slot and node, flat: the splits' values, and these for the leaves, at which a window stays."""
        rows = graph.node("Reshape", [f"forest_{name}", graph.constant([slots, splits])])
        ends = graph.node("Expand", [graph.constant(leaves[None], np.float32), graph.constant([slots, 1])])
        both = graph.node("Concat", [rows, ends], axis=1)
        flat = graph.node("Reshape", [both, graph.constant([-1])])
        return graph.node("Cast", [flat], to=TensorProto.INT64) if whole else flat

    nothing, stay = np.zeros(splits + 1, np.float32), np.arange(splits, nodes, dtype=np.float32)
    tables = {
        "feature": table("feature", nothing, True), "threshold": table("threshold", nothing, False),
        "left": table("left", stay, True), "right": table("right", stay, True),
    }  # fmt: skip
    batch = graph.node("Shape", ["features"], start=0, end=1)
    size = graph.node("Concat", [batch, graph.constant([slots])], axis=0)
    begin = graph.node("Expand", [graph.constant([[0]]), size])
    offsets = graph.constant((np.arange(slots) * nodes)[None])
    body = _level(tables, offsets, splits)
    # As many turns as the deepest tree of this forest has levels.
    most, go = graph.constant(splits), graph.constant(True, np.bool_)
    [ends] = graph.nodes_out("Loop", [most, go, begin], ["ends"], body=body)
    first = graph.constant((np.arange(slots) * (splits + 1) - splits)[None])
    leaves = graph.node("Reshape", ["forest_leaf", graph.constant([-1, room.classes])])
    said = graph.node("Gather", [leaves, graph.node("Add", [ends, first])], axis=0)
    votes = graph.node("Reshape", ["forest_weight", graph.constant([slots, 1])])
    summed = graph.node("ReduceSum", [graph.node("Mul", [said, votes]), graph.constant([1])], keepdims=0)
    whole = graph.node("ReduceSum", ["forest_weight"], keepdims=0)
    return graph.node("Div", [summed, whole], "scores")


def _level(tables: dict[str, str], offsets: str, splits: int) -> helper.GraphProto:
    """The body of the loop: from the nodes at which windows are, int64 (batch, slots), to those below."""
    turn = Graph("level_")
    at = turn.node("Add", ["level_at", offsets])
    feature, threshold, left, right = (
        turn.node("Gather", [tables[name], at], axis=0) for name in ("feature", "threshold", "left", "right")
    )
    value = turn.node("GatherElements", ["features", feature], axis=1)
    turn.node("Where", [turn.node("Greater", [value, threshold]), right, left], "level_next")
    lowest = turn.node("ReduceMin", ["level_next"], keepdims=0)
    turn.node("Less", [lowest, turn.constant(splits)], "level_more")
    go, more = (
        helper.make_tensor_value_info(name, TensorProto.BOOL, ()) for name in ("level_go", "level_more")
    )
    inputs = [integers("level_turn"), go, integers("level_at", "batch", "slots")]
    outputs = [more, integers("level_next", "batch", "slots")]
    return turn.body(inputs, outputs)
