"""Tables that scikit-learn carries, parted between devices that each see another part of the world.

``cancer`` is skewed by a feature: each of eight clinics sees tumours of one size only, the first almost none
that are malignant and the last almost none that are benign. ``digits`` is skewed by label: what each of ten
post offices sees of a digit is drawn from a Dirichlet distribution (0.5), so that most hardly know some
digits. Three tenths of each table are held out before it is parted: no device ever sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]
_HELD_OUT = 0.3
_CLINICS, _OFFICES, _LEAST, _CONCENTRATION = 8, 10, 60, 0.5


@dataclass(frozen=True)
class Table:
    """devices: (rows (n, F), labels (n,)) of each. strangers: those that none sees. names: of features."""

    names: tuple[str, ...]
    labels: tuple[str, ...]
    devices: tuple[tuple[Rows, Labels], ...]
    strangers: tuple[Rows, Labels]


def cancer(seed: int = 0) -> Table:
    """Breast cancer Wisconsin (diagnostic): 569 rows, 30 features of cell nuclei, two labels."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    rows, labels = found.data.astype(np.float32), found.target.astype(np.int64)
    seen, strangers = _parted(labels, np.random.default_rng(seed))
    by_size = seen[np.argsort(rows[seen, 0], kind="stable")]
    # Not in the order of size: what a device holds out is of all that it sees.
    parts = [np.sort(part) for part in np.array_split(by_size, _CLINICS)]
    names = tuple(str(name).replace(" ", "_") for name in found.feature_names)
    return _table(names, tuple(map(str, found.target_names)), rows, labels, parts, strangers)


def digits(seed: int = 0) -> Table:
    """Optical recognition of handwritten digits: 1797 rows, 64 features (sums of pixels), ten labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    rows, labels = found.data.astype(np.float32), found.target.astype(np.int64)
    random = np.random.default_rng(seed)
    seen, strangers = _parted(labels, random)
    parts = _drawn(labels, seen, random)
    return _table(
        tuple(map(str, found.feature_names)), tuple(map(str, range(10))), rows, labels, parts, strangers
    )


def _parted(labels: Labels, random: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(seen, held out), of each label alike."""
    held_out = np.concatenate(
        [
            random.permutation(places)[: round(_HELD_OUT * len(places))]
            for places in (np.flatnonzero(labels == label) for label in np.unique(labels))
        ]
    )
    return np.setdiff1d(np.arange(len(labels)), held_out), np.sort(held_out)


def _drawn(labels: Labels, seen: NDArray[np.intp], random: np.random.Generator) -> list[NDArray[np.intp]]:
    """Each label's rows between the devices, by shares that are drawn; anew until each has enough."""
    while True:
        parts: list[list[int]] = [[] for _ in range(_OFFICES)]
        for label in np.unique(labels):
            places = random.permutation(seen[labels[seen] == label])
            shares = np.cumsum(random.dirichlet([_CONCENTRATION] * _OFFICES))[:-1]
            cuts = (shares * len(places)).astype(int)
            for part, some in zip(parts, np.split(places, cuts), strict=True):
                part.extend(some.tolist())
        if min(map(len, parts)) >= _LEAST:
            return [np.sort(np.array(part)) for part in parts]


def _table(
    names: tuple[str, ...], labels: tuple[str, ...], rows: Rows, right: Labels, parts: list[NDArray[np.intp]],
    strangers: NDArray[np.intp],
) -> Table:  # fmt: skip
    return Table(
        names, labels, tuple((rows[part], right[part]) for part in parts), (rows[strangers], right[strangers])
    )
