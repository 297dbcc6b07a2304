"""Growing the trees of a random forest (Breiman 2001): CART (Breiman et al. 1984) on histograms.

Each feature's values are put into bins once, with about as many windows in each; a split is a bin's edge. A
tree grows on a bootstrap sample, best split first, by the gain in Gini impurity; each split chooses among
sqrt(F) features drawn anew. The labels weigh alike, however often each is there: so a device that has seen
little of one does not say "never" of it to the fleet.

What a tree tells of windows is bounded: each leaf stands on ``least`` different windows or more, and a
threshold lies half-way between two neighbouring values that are ``least`` windows or more from either end.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marram.wire.trees import Room, Tree

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]
_BINS = 64
_LEAST_GAIN = 1e-9


@dataclass(frozen=True, slots=True)
class Binned:
    """Windows by the bins of their features. codes: uint8 (n, F). edges: of each feature, rising.

    A window has code c where its value is above c edges, so ``code <= c`` is ``value <= edges[c]``.
    """

    codes: NDArray[np.uint8]
    edges: tuple[Floats, ...]
    labels: Integers


@dataclass(frozen=True, slots=True)
class _Split:
    feature: int
    edge: int
    gain: float


def binned(features: Floats, labels: Integers, least: int, most: int = _BINS) -> Binned:
    """features: float32 (n, F). least: windows in a bin, where values differ. most: bins."""
    count = min(most, max(1, len(features) // max(1, least)))
    edges = tuple(_edges(column, count) for column in features.T)
    codes = [
        np.searchsorted(some, column, side="left").astype(np.uint8)
        for some, column in zip(edges, features.T, strict=True)
    ]
    return Binned(np.stack(codes, axis=1), edges, labels)


def grow(windows: Binned, room: Room, least: int, random: np.random.Generator) -> Tree:
    """One tree. least: different windows in a leaf."""
    count = len(windows.labels)
    drawn = np.bincount(random.integers(count, size=count), minlength=count)
    by_label = _sums(windows.labels, drawn.astype(np.float64), room.classes)
    share = np.divide(1.0, by_label, out=np.zeros(room.classes), where=by_label > 0)
    weight = drawn.astype(np.float64) * share[windows.labels]
    return _Grower(windows, room, least, random, weight).tree(np.flatnonzero(drawn))


class _Grower:
    """One tree on its way. weight: float64 (n,), of each window."""

    def __init__(
        self,
        windows: Binned,
        room: Room,
        least: int,
        random: np.random.Generator,
        weight: Doubles,
    ) -> None:
        self._windows, self._room, self._least = windows, room, least
        self._random, self._weight = random, weight
        self._bins = 1 + max(len(some) for some in windows.edges)
        self._able = np.flatnonzero([len(some) > 0 for some in windows.edges])
        self._tried = max(1, math.isqrt(len(windows.edges)))

    def tree(self, rows: NDArray[np.intp]) -> Tree:
        """Best first. Nodes are numbered as they come; leaves and splits get their own numbers in the end."""
        inside, splits, children = {0: rows}, dict[int, _Split](), dict[int, tuple[int, int]]()
        waiting: list[tuple[float, int, _Split]] = []
        numbers = itertools.count(1)

        def look(node: int) -> None:
            split = self._best(inside[node])
            if split is not None:
                heapq.heappush(waiting, (-split.gain, node, split))

        look(0)
        while waiting and len(splits) < self._room.splits:
            _, node, split = heapq.heappop(waiting)
            here = inside[node]
            left = self._windows.codes[here, split.feature] <= split.edge
            splits[node], children[node] = split, (next(numbers), next(numbers))
            for child, some in zip(children[node], (here[left], here[~left]), strict=True):
                inside[child] = some
                look(child)
        return self._finished(inside, splits, children)

    def _best(self, rows: NDArray[np.intp]) -> _Split | None:
        """Among some features that are drawn; among the others too where none of those splits anything."""
        if len(rows) < 2 * self._least or not len(self._able):
            return None
        order = self._random.permutation(self._able)
        for some in (order[: self._tried], order[self._tried :]):
            split = self._best_of(rows, some) if len(some) else None
            if split is not None:
                return split
        return None

    def _best_of(self, rows: NDArray[np.intp], some: NDArray[np.intp]) -> _Split | None:
        classes, bins = self._room.classes, self._bins
        codes = self._windows.codes[np.ix_(rows, some)].astype(np.int64) + np.arange(len(some)) * bins
        weight = np.repeat(self._weight[rows], len(some))
        cells = (codes * classes + self._windows.labels[rows][:, None]).reshape(-1)
        sums = _sums(cells, weight, len(some) * bins * classes).reshape(len(some), bins, classes)
        counts = np.bincount(codes.reshape(-1), minlength=len(some) * bins).reshape(len(some), bins)
        left: Doubles = np.cumsum(sums, axis=1)[:, :-1]
        whole: Doubles = sums[0].sum(axis=0)
        below = np.cumsum(counts, axis=1)[:, :-1]
        fits = (below >= self._least) & (len(rows) - below >= self._least)
        gain: Doubles = _purity(left) + _purity(whole - left) - _purity(whole[None])
        gain[~fits] = -np.inf
        place = int(gain.argmax())
        feature, edge = divmod(place, gain.shape[1])
        best = float(gain.reshape(-1)[place])
        return _Split(int(some[feature]), edge, best) if best > _LEAST_GAIN else None

    def _finished(
        self,
        inside: dict[int, NDArray[np.intp]],
        splits: dict[int, _Split],
        children: dict[int, tuple[int, int]],
    ) -> Tree:
        # A node's number is higher than that of the split above it.
        inner = sorted(splits)
        outer = [node for node in sorted(inside) if node not in splits]
        number = {node: place for place, node in enumerate((*inner, *outer))}
        leaves = np.stack([self._parts(inside[node]) for node in outer])
        edges = self._windows.edges
        return Tree(
            np.array([splits[node].feature for node in inner], np.int64),
            np.array([edges[splits[node].feature][splits[node].edge] for node in inner], np.float32),
            np.array([[number[child] for child in children[node]] for node in inner], np.int64).reshape(
                -1, 2
            ),
            leaves.astype(np.float32),
        )

    def _parts(self, rows: NDArray[np.intp]) -> Doubles:
        sums = _sums(self._windows.labels[rows], self._weight[rows], self._room.classes)
        whole: Doubles = sums / sums.sum()
        return whole


def _sums(places: NDArray[np.intp], weight: Doubles, size: int) -> Doubles:
    return np.bincount(places, weight, size).astype(np.float64)


def _purity(sums: Doubles) -> Doubles:
    """Of weights by class, along the last axis: their sum less the Gini impurity; 0 where there are none."""
    whole = sums.sum(axis=-1)
    pure: Doubles = np.divide((sums**2).sum(axis=-1), whole, out=np.zeros_like(whole), where=whole > 0)
    return pure


def _edges(values: NDArray[np.float32], count: int) -> Floats:
    """Between at most ``count`` bins of about as many values each; equal values are never parted."""
    found, times = np.unique(values, return_counts=True)
    below = np.cumsum(times)
    each = len(values) / count
    # The last value of a bin is the one with which it is full.
    full = np.flatnonzero(np.floor(below[:-1] / each) > np.floor((below[:-1] - times[:-1]) / each))
    middle = ((found[full].astype(np.float64) + found[full + 1]) / 2).astype(np.float32)
    return np.where(middle < found[full + 1], middle, found[full])
