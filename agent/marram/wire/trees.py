"""Decision trees as they travel: what a device's training of a forest says in a round.

The offer's chain is then ``trees(N)``: a device sends at most N new trees, and for each tree that the forest
has how many of its held-out windows that tree gets right. The payload is CBOR of a ``TreesMessage``.

::

    chain   = "trees(" number ")"       number: 1 to 1000

A tree of m splits has m + 1 leaves. Its splits are numbered so that a split comes before those below it; 0
is the root. A child c is split c for c < m, else leaf c - m. A tree without splits is leaf 0 alone. A window
goes left if its feature is at most the threshold; both are float32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from marram.errors import WireError
from marram.wire import cbor, reasons
from marram.wire.messages import Count

MOST_TREES = 1000
MOST_SPLITS = 1 << 14  # so that a child's number fits into 16 bits
_CHAIN = re.compile(r"trees\(([1-9][0-9]{0,3})\)", re.ASCII)
_STEPS = 255

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Room:
    """What a forest's trees may be. splits: in each, at most. features: to split by. classes: to tell."""

    splits: int
    features: int
    classes: int


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """One tree of m splits; see the module's docstring.

    feature: int64 (m,), index of the feature that a split looks at. threshold: float32 (m,). children: int64
    (m, 2), left and right. leaves: float32 (m + 1, classes), the part that each class has in a leaf.
    """

    feature: Integers
    threshold: Floats
    children: Integers
    leaves: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """What a device tells. trees: its new ones.

    count: held-out windows that it measured the forest's trees on. correct: int64 (trees of the forest,), how
    many of those each gets right.
    """

    trees: tuple[Tree, ...]
    count: int
    correct: Integers


class TreeMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tree of m splits. All numbers little-endian.

    features: uint16 (m). thresholds: float32 (m). children: uint16 (m, 2). leaves: uint8 (m + 1, classes):
    parts of 255, rounded; whoever reads them divides each leaf by its sum.
    """

    features: bytes
    thresholds: bytes
    children: bytes
    leaves: bytes


class TreesMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of a delta by ``trees(N)``. correct: uint32 for each tree of the base, in their order."""

    trees: Annotated[tuple[TreeMessage, ...], msgspec.Meta(max_length=MOST_TREES)]
    count: Count
    correct: bytes


def chain(most: int) -> str:
    """The offer's chain that asks for at most so many new trees."""
    return f"trees({most})"


def most_trees(spec: str) -> int:
    """How many new trees a device may send by this chain; 0 for a chain of another kind."""
    match = _CHAIN.fullmatch(spec)
    return min(int(match[1]), MOST_TREES) if match else 0


def encode(contribution: Contribution) -> bytes:
    """The payload. Leaves are rounded to parts of 255."""
    trees = tuple(
        TreeMessage(
            tree.feature.astype("<u2").tobytes(),
            tree.threshold.astype("<f4").tobytes(),
            tree.children.astype("<u2").tobytes(),
            np.rint(tree.leaves * _STEPS).astype(np.uint8).tobytes(),
        )
        for tree in contribution.trees
    )
    return cbor.pack(TreesMessage(trees, contribution.count, contribution.correct.astype("<u4").tobytes()))


def decode(payload: bytes, room: Room, most: int, trees: int) -> Contribution:
    """A contribution of at most ``most`` new trees to a forest of ``trees``, all of it checked.

    Raises WireError(MALFORMED, BAD_VALUES) that names the tree and what is wrong with it.
    """
    message = cbor.unpack(payload, TreesMessage)
    if len(message.trees) > most:
        raise _bad(f"{len(message.trees)} new trees, at most {most} were asked for")
    if len(message.correct) != 4 * trees:
        raise _bad(f"{len(message.correct)} bytes of scores are not those of {trees} trees")
    correct = np.frombuffer(message.correct, "<u4").astype(np.int64)
    if (correct > message.count).any():
        raise _bad(f"a tree gets {correct.max()} of {message.count} windows right")
    made = []
    for number, one in enumerate(message.trees):
        try:
            tree = _tree(one, room)
            check(tree, room)
        except WireError as error:
            raise _bad(f"tree {number}: {error}") from None
        made.append(tree)
    return Contribution(tuple(made), message.count, correct)


def check(tree: Tree, room: Room) -> None:
    """Raise WireError(BAD_VALUES) unless it is one whole tree that fits the room."""
    splits = len(tree.feature)
    if splits > room.splits:
        raise _bad(f"{splits} splits, at most {room.splits} have room")
    if splits and not (tree.feature.min() >= 0 and tree.feature.max() < room.features):
        raise _bad(f"splits by feature {tree.feature.max()}; there are {room.features}, counted from 0")
    if not np.isfinite(tree.threshold).all():
        raise _bad("a threshold is NaN or infinite")
    # Every node but the root is the child of one split that comes before it: so all are reached, and no way
    # leads round.
    if not np.array_equal(np.sort(tree.children, axis=None), np.arange(1, 2 * splits + 1)):
        raise _bad("a node is nobody's child, or somebody's twice, or there is no such node")
    if ((tree.children < splits) & (tree.children <= np.arange(splits)[:, None])).any():
        raise _bad("a split is the child of one that comes after it")
    leaves = tree.leaves
    if leaves.shape != (splits + 1, room.classes):
        raise _bad(f"leaves of shape {leaves.shape}, expected {(splits + 1, room.classes)}")
    if not (np.isfinite(leaves).all() and (leaves >= 0).all() and np.allclose(leaves.sum(1), 1.0, atol=1e-3)):
        raise _bad("the parts of a leaf are not finite, are negative, or are not 1 in all")


def _tree(message: TreeMessage, room: Room) -> Tree:
    splits, rest = divmod(len(message.features), 2)
    sizes = len(message.thresholds), len(message.children), len(message.leaves)
    if rest or sizes != (4 * splits, 4 * splits, (splits + 1) * room.classes):
        raise _bad("its arrays do not have the lengths of one tree")
    parts = np.frombuffer(message.leaves, np.uint8).reshape(splits + 1, room.classes).astype(np.float32)
    sums = parts.sum(axis=1, keepdims=True)
    if not sums.all():
        raise _bad("a leaf says nothing")
    return Tree(
        np.frombuffer(message.features, "<u2").astype(np.int64),
        np.frombuffer(message.thresholds, "<f4").astype(np.float32),
        np.frombuffer(message.children, "<u2").astype(np.int64).reshape(splits, 2),
        parts / sums,
    )


def _bad(what: str) -> WireError:
    return WireError(reasons.BAD_VALUES, what)
