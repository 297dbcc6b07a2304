"""Trees and forests of scikit-learn: from a fitted estimator, or from a file of skops.

A skops file holds arrays and the names of types, and only types that are known as harmless are made of it. A
pickle (joblib too) runs whatever code it holds, so there is no way in for one but the project's own model.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marram_cloud.trees.errors import TreesError
from marram_cloud.trees.source import Node, Source, tree

_ONE = ("DecisionTreeClassifier", "ExtraTreeClassifier")
_MANY = ("RandomForestClassifier", "ExtraTreesClassifier")
# Arrays alone, which are looked through here before scikit-learn walks along them.
_HARMLESS = ("sklearn.tree._tree.Tree",)


def read_skops(path: Path) -> object:
    """What the file holds. Raises TreesError for what is no skops file, or would run code of its own."""
    try:
        from skops import io
    except ImportError as error:
        raise TreesError("reading a skops file needs skops: pip install 'marram[trees]'") from error
    try:
        strangers = [one for one in io.get_untrusted_types(file=path) if one not in _HARMLESS]
        if strangers:
            raise TreesError(
                f"{path}: holds {', '.join(strangers)}, which may run code of their own: save the fitted "
                "estimator alone, or return it from model.py"
            )
        return io.load(path, trusted=_HARMLESS)
    except TreesError:
        raise
    except Exception as error:  # a zip, JSON and arrays of anybody's making
        raise TreesError(
            f"{path}: is no skops file that can be read: {type(error).__name__}: {error}"
        ) from error


def source(estimator: object, labels: Sequence[str]) -> Source:
    """The trees of a fitted classifier. Raises TreesError that says what it is instead."""
    found: Any = estimator
    kind = type(found).__name__
    ours = type(found).__module__.startswith("sklearn.")
    if not ours or kind not in (*_ONE, *_MANY):
        raise TreesError(f"{kind} is not supported; there are {', '.join((*_ONE, *_MANY))} of scikit-learn")
    if not hasattr(found, "classes_"):
        raise TreesError(f"the {kind} is not fitted: call fit first")
    if found.n_outputs_ != 1:
        raise TreesError(f"the {kind} has {found.n_outputs_} outputs; a bundle has one label for a window")
    order = _order([str(one) for one in found.classes_], list(labels))
    members = [found] if kind in _ONE else found.estimators_
    trees = tuple(tree(_nodes(one.tree_, order)) for one in members)

    def probabilities(features: NDArray[np.float32]) -> NDArray[np.float64]:
        said: NDArray[np.float64] = found.predict_proba(features)[:, order]
        return said

    return Source(trees, np.ones(len(trees)), int(found.n_features_in_), probabilities)


def _nodes(fitted: Any, order: list[int]) -> list[Node]:  # noqa: ANN401 - scikit-learn ships no types
    values = fitted.value[:, 0, :][:, order]
    return [
        Node(int(feature), float(threshold), int(left), int(right), value)
        for feature, threshold, left, right, value in zip(
            fitted.feature, fitted.threshold, fitted.children_left, fitted.children_right, values, strict=True
        )
    ]


def _order(classes: list[str], labels: list[str]) -> list[int]:
    """Where each label stands among the estimator's classes: by name, else 0, 1, 2 in the labels' order."""
    if len(classes) != len(labels):
        raise TreesError(
            f"the model tells {len(classes)} classes apart ({', '.join(classes)}), project.yaml names "
            f"{len(labels)} labels"
        )
    if set(classes) == set(labels):
        return [classes.index(label) for label in labels]
    if classes == [str(number) for number in range(len(labels))]:
        return list(range(len(labels)))
    raise TreesError(
        f"the model's classes are {', '.join(classes)}; expected the labels of project.yaml "
        f"({', '.join(labels)}), or their numbers from 0"
    )
