"""The seam to where trees come from, and what all such sources share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from marram.wire.trees import Tree
from numpy.typing import NDArray

from marram_cloud.trees.errors import TreesError


@dataclass(frozen=True)
class Source:
    """A fitted forest, whatever library fitted it. trees: one or more. weights: of their votes, (trees,).

    features: how many it was fitted on. probabilities: what the library itself says of features (n, F):
    float64 (n, classes). None where the library is not at hand.
    """

    trees: tuple[Tree, ...]
    weights: NDArray[np.float64]
    features: int
    probabilities: Callable[[NDArray[np.float32]], NDArray[np.float64]] | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a tree as libraries store it. left, right: indexes of nodes, below 0 for a leaf.

    A row goes left if its feature is at most the threshold. value: of a leaf, weight by class, any scale.
    """

    feature: int
    threshold: float
    left: int
    right: int
    value: Sequence[float]


def tree(nodes: Sequence[Node]) -> Tree:
    """The tree whose root is node 0. Raises TreesError where they are none, or a leaf has no weight."""
    inner: list[int] = []
    outer: list[int] = []
    waiting = [0]
    for node in waiting:
        if not 0 <= node < len(nodes):
            raise TreesError(f"there is no node {node}; there are {len(nodes)}")
        if nodes[node].left < 0:
            outer.append(node)
        else:
            inner.append(node)
            waiting += [nodes[node].left, nodes[node].right]
        if len(waiting) > len(nodes):
            raise TreesError("a node stands below two others, or below itself")
    number = {node: place for place, node in enumerate((*inner, *outer))}
    leaves = np.array([nodes[node].value for node in outer], np.float64)
    sums = leaves.sum(axis=1, keepdims=True)
    if not (np.isfinite(leaves).all() and (sums > 0).all()):
        raise TreesError("a leaf has no weight for any class")
    return Tree(
        np.array([nodes[node].feature for node in inner], np.int64),
        below(np.array([nodes[node].threshold for node in inner], np.float64)),
        np.array([(number[nodes[n].left], number[nodes[n].right]) for n in inner], np.int64).reshape(-1, 2),
        (leaves / sums).astype(np.float32),
    )


def below(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above each: ``x <= threshold`` is then the same for every float32 x."""
    largest = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        rounded = np.clip(thresholds, -largest, largest).astype(np.float32)
        high = rounded.astype(np.float64) > thresholds
        rounded[high] = np.nextafter(rounded[high], np.float32(-np.inf))
    return np.maximum(rounded, -largest)
