"""What trees say of windows, by their features; numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marram.wire.trees import Tree


def parts(tree: Tree, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The parts of the labels in the leaf of each window, (n, classes). features: float32 (n, F)."""
    splits = len(tree.feature)
    if splits == 0:
        return np.repeat(tree.leaves, len(features), axis=0)
    rows = np.arange(len(features))
    node = np.zeros(len(features), np.int64)
    while len(rows):
        at = node[rows]
        right = features[rows, tree.feature[at]] > tree.threshold[at]
        node[rows] = tree.children[at, right.astype(np.int64)]
        rows = rows[node[rows] < splits]
    return tree.leaves[node - splits]


def correct(
    trees: tuple[Tree, ...], features: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many windows each tree gets right, int64 (trees,)."""
    return np.array([(parts(tree, features).argmax(axis=1) == labels).sum() for tree in trees], np.int64)
