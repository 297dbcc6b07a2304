"""Trees and forests for tests: drawn by hypothesis or by a seed, and a bundle with room for a forest."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st
from marram.bundle.file import Bundle, read
from marram.bundle.forest import Forest, Layout
from marram.wire.trees import Contribution, Room, Tree
from marram_cloud.trees.build import build

ROOM = Room(splits=7, features=3, classes=2)
PROJECT: dict[str, Any] = {
    "name": "table", "channels": [{"name": name} for name in "abc"], "rate": 1, "length": 1, "stride": 1,
    "labels": ["low", "high"], "forest": {"trees": 6, "splits": ROOM.splits},
}  # fmt: skip


def random_tree(seed: int, room: Room = ROOM, splits: int | None = None) -> Tree:
    """A tree whose shape, thresholds and leaves are drawn. splits: so many, else 0 to the room's."""
    random = np.random.default_rng(seed)
    count = int(random.integers(room.splits + 1)) if splits is None else splits
    open_ends: list[tuple[int, int]] = []
    above = np.zeros((count, 2), np.int64)
    for split in range(count):
        if split:
            parent, side = open_ends.pop(int(random.integers(len(open_ends))))
            above[parent, side] = split
        open_ends += [(split, 0), (split, 1)]
    for leaf, (parent, side) in enumerate(open_ends):
        above[parent, side] = count + leaf
    leaves = random.dirichlet(np.ones(room.classes), count + 1).astype(np.float32)
    return Tree(
        random.integers(room.features, size=count),
        random.normal(size=count).astype(np.float32),
        above,
        leaves / leaves.sum(axis=1, keepdims=True),
    )


def trees(room: Room = ROOM, least: int = 0) -> st.SearchStrategy[Tree]:
    return st.builds(
        lambda seed, splits: random_tree(seed, room, splits),
        st.integers(0, 2**32),
        st.integers(least, room.splits),
    )


def contribution(*new: Tree, correct: Any = (1,), count: int = 10) -> Contribution:
    return Contribution(new, count, np.array(correct, np.int64))


def forest(*seeds: int, weights: Any = None, room: Room = ROOM) -> Forest:
    """Trees with a split at least, each with a weight."""
    made = tuple(random_tree(seed, room, 1 + seed % room.splits) for seed in seeds)
    return Forest(made, np.ones(len(made)) if weights is None else np.array(weights, float))


@cache
def room_for_trees(**changes: Any) -> Bundle:
    """The bundle of ``PROJECT``: no trees yet."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "project.yaml").write_text(yaml.safe_dump({**PROJECT, **changes}))
        return read(build(Path(name)).path)


def layout() -> Layout:
    return Layout.of(room_for_trees().manifest)


def assert_same(one: Tree, other: Tree, leaves: float = 0.0) -> None:
    """leaves: how far their parts may be apart."""
    np.testing.assert_array_equal(one.feature, other.feature)
    np.testing.assert_array_equal(one.threshold, other.threshold)
    np.testing.assert_array_equal(one.children, other.children)
    np.testing.assert_allclose(one.leaves, other.leaves, atol=leaves, rtol=0)
