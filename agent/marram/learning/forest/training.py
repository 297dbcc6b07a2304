"""A forest's training, inside the trainer child: new trees on the device's own windows, old ones measured.

In a round the device tells its new trees, and how many of its held-out windows each tree of the fleet's
forest gets right; the aggregator makes the next forest of what all of them told. Beside that it makes a
forest of its own, of the trees that are best on its held-out windows: on this it measures what the training
was good for, and a device that learns alone runs it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marram.bundle.file import Bundle
from marram.bundle.forest import Forest, Layout, say
from marram.errors import BundleError, TrainingError
from marram.learning.forest.grow import binned, grow
from marram.learning.forest.vote import correct
from marram.learning.store import TrainingSet
from marram.programs.program import Program, ProgramOptions
from marram.wire.parameters import Vector
from marram.wire.trees import Contribution, Tree

LEAST = 3
"""Different windows that each leaf of a tree stands on, at least."""
_BATCH = 256


@dataclass(frozen=True)
class Grown:
    """contribution: for the fleet. own: float32 (P,), the forest that is best for this device."""

    contribution: Contribution
    own: Vector


def forest(bundle: Bundle, vector: Vector) -> Forest:
    """The forest in float32 (P,). Raises TrainingError where it is none."""
    try:
        return Layout.of(bundle.manifest).unpack(vector)
    except BundleError as error:
        raise TrainingError(f"the parameters to start from are no forest: {error}") from error


def train(
    bundle: Bundle,
    base: Vector,
    seen: TrainingSet,
    held_out: TrainingSet,
    trees: int,
    seed: int,
    options: ProgramOptions,
) -> Grown:
    """Grow ``trees`` trees, or as many as the forest has slots for 0. base: float32 (P,), the forest.

    Raises TrainingError where the base is no forest.
    """
    layout, old = Layout.of(bundle.manifest), forest(bundle, base)
    program = bundle.program("features", options)
    features, measured = _features(program, seen.values), _features(program, held_out.values)
    # The seed is the round's and alike on all devices; whose windows differ shall draw differently.
    mixed = hashlib.sha256(features.tobytes()).digest()[:8]
    random = np.random.default_rng([seed, int.from_bytes(mixed, "big")])
    windows = binned(features, seen.labels, LEAST)
    new = tuple(grow(windows, layout.room, LEAST, random) for _ in range(trees or layout.slots))
    right = correct(old.trees, measured, held_out.labels)
    own = _best(
        layout,
        (*new, *old.trees),
        np.append(correct(new, measured, held_out.labels), right),
        len(held_out),
    )
    return Grown(Contribution(new, len(held_out), right), layout.pack(own))


def _best(layout: Layout, trees: tuple[Tree, ...], right: NDArray[np.int64], count: int) -> Forest:
    """As many as there are slots for, weighted by how they did here; of equals the first."""
    kept = np.argsort(-right, kind="stable")[: layout.slots]
    weights = say(right[kept], count, layout.room.classes)
    if not weights.any():
        weights = np.ones(len(kept))
    useful = weights > 0
    return Forest(tuple(trees[place] for place in kept[useful]), weights[useful])


def _features(program: Program, windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (n, F) of windows (n, C, L), block by block. Raises TrainingError where one is NaN."""
    blocks = [
        program(x=windows[begin : begin + _BATCH])["features"] for begin in range(0, len(windows), _BATCH)
    ]
    features = np.concatenate(blocks).astype(np.float32)
    if not np.isfinite(features).all():
        raise TrainingError("a feature of a window is NaN or infinite")
    return features
