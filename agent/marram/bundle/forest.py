"""A forest as a bundle's parameters: T slots for trees in one flat float32 vector, and back.

``splits`` is the most splits S that a tree may have, K the number of labels:

=============  ==============  ==================================================================
parameter      shape           meaning
=============  ==============  ==================================================================
``feature``    (T, S)          index of the feature that a split looks at
``threshold``  (T, S)          a window goes left if its feature is at most this
``left``       (T, S)          child: a split's index, or S + the index of a leaf
``right``      (T, S)
``leaf``       (T, S + 1, K)   part of each label in a leaf
``weight``     (T,)            of the tree's vote; 0 where the slot is empty
=============  ==============  ==================================================================

Splits that a tree does not use stand behind those that it does, and have leaf 0 on both sides. Whole numbers
up to 2^24 are exact in float32. A bundle whose parameters these are has a program ``features``, and none
``train``: a device grows trees on the features of its windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marram.bundle.manifest import Manifest
from marram.errors import BundleError, WireError
from marram.programs.program import Tensor
from marram.wire.trees import MOST_SPLITS, Room, Tree, check

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Forest:
    """trees: at most as many as there are slots. weights: float64 (trees,), each above 0."""

    trees: tuple[Tree, ...]
    weights: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a forest lies in the flat vector. slots: for trees. room: of each."""

    slots: int
    room: Room

    @staticmethod
    def of(manifest: Manifest) -> Layout:
        """Raises BundleError when the bundle's parameters are not those of a forest."""
        features = manifest.programs["features"].outputs[0].shape
        first = manifest.parameters[0].shape if manifest.parameters else ()
        if len(first) != 2 or len(features) != 2 or isinstance(features[1], str):
            raise BundleError(f"{manifest.name}: has a features program, but not the parameters of a forest")
        slots, splits = (int(size) for size in first)
        layout = Layout(slots, Room(splits, features[1], len(manifest.labels)))
        if manifest.parameters != layout.tensors() or splits > MOST_SPLITS:
            raise BundleError(f"{manifest.name}: its parameters are not those of a forest with {slots} trees")
        return layout

    def tensors(self) -> tuple[Tensor, ...]:
        """As they stand in the manifest."""
        slots, splits = self.slots, self.room.splits
        shapes: dict[str, tuple[int, ...]] = {
            "feature": (slots, splits), "threshold": (slots, splits), "left": (slots, splits),
            "right": (slots, splits), "leaf": (slots, splits + 1, self.room.classes), "weight": (slots,),
        }  # fmt: skip
        return tuple(Tensor(name, "float32", shape) for name, shape in shapes.items())

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        splits = self.room.splits
        return self.slots * (4 * splits + (splits + 1) * self.room.classes + 1)

    def count(self, vector: Vector) -> int:
        """How many trees of a flat vector have a vote."""
        return int(np.count_nonzero(vector[-self.slots :]))

    def pack(self, forest: Forest) -> Vector:
        """float32 (P,). Raises BundleError for too many trees, none, or one that does not fit."""
        if not 0 < len(forest.trees) <= self.slots:
            raise BundleError(f"{len(forest.trees)} trees; a forest here has 1 to {self.slots}")
        slots, splits = self.slots, self.room.splits
        feature, threshold = np.zeros((2, slots, splits), np.float32)
        children = np.full((2, slots, splits), splits, np.float32)
        leaf = np.zeros((slots, splits + 1, self.room.classes), np.float32)
        weight = np.zeros(slots, np.float32)
        for slot, tree in enumerate(forest.trees):
            used = len(tree.feature)
            try:
                check(tree, self.room)
            except WireError as error:
                raise BundleError(f"tree {slot}: {error}") from error
            feature[slot, :used], threshold[slot, :used] = tree.feature, tree.threshold
            inner = tree.children < used
            children[:, slot, :used] = np.where(inner, tree.children, tree.children - used + splits).T
            leaf[slot, : used + 1] = tree.leaves
            weight[slot] = forest.weights[slot]
        return np.concatenate(
            [part.reshape(-1) for part in (feature, threshold, children[0], children[1], leaf, weight)]
        )

    def unpack(self, vector: Vector) -> Forest:
        """The trees whose weight is above 0, checked. Raises BundleError where it holds no sound forest."""
        if vector.shape != (self.size,) or not np.isfinite(vector).all():
            raise BundleError(f"{vector.size} values are not a forest of {self.size} finite ones")
        slots, splits, at = self.slots, self.room.splits, 0
        parts: list[Vector] = []
        for tensor in self.tensors():
            shape = tuple(int(size) for size in tensor.shape)
            end = at + int(np.prod(shape))
            parts.append(vector[at:end].reshape(shape))
            at = end
        feature, threshold, left, right, leaf, weight = parts
        if (weight < 0).any() or not weight.any():
            raise BundleError("no tree of the forest has a vote, or one has less than none")
        trees, weights = [], []
        for slot in range(slots):
            if weight[slot] == 0:
                continue
            used = int((left[slot] != right[slot]).sum())
            pairs = np.stack([left[slot, :used], right[slot, :used]], axis=1).astype(np.int64)
            tree = Tree(
                feature[slot, :used].astype(np.int64),
                threshold[slot, :used],
                np.where(pairs < used, pairs, pairs - splits + used),
                leaf[slot, : used + 1],
            )
            try:
                check(tree, self.room)
            except WireError as error:
                raise BundleError(f"tree {slot}: {error}") from error
            trees.append(tree)
            weights.append(float(weight[slot]))
        return Forest(tuple(trees), np.array(weights))


def say(
    correct: NDArray[np.integer | np.floating], count: int | NDArray[np.floating], classes: int
) -> NDArray[np.float64]:
    """The weight of trees that get ``correct`` of ``count`` windows right: how much better than chance.

    log(accuracy / (1 - accuracy)) + log(classes - 1), as in SAMME (Zhu et al. 2009), with half a window more
    on either side, and 0 for those that are no better than chance.
    """
    accuracy = (correct + 0.5) / (count + 1.0)
    better: NDArray[np.float64] = np.log(accuracy / (1 - accuracy)) + np.log(classes - 1)
    return np.maximum(better, 0.0)
