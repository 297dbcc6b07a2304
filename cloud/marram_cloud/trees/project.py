"""A forest's project: a folder with ``project.yaml``, and what fitted it, if anything did.

``model.py`` may define ``model()`` that returns a fitted scikit-learn classifier. ``evaluation.npz`` may hold
``windows`` float32 (n, channels, length) and ``labels`` int64 (n,), on which the forest is judged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from marram.wire.trees import MOST_SPLITS, MOST_TREES

from marram_cloud.projects import code
from marram_cloud.projects.about import About, read
from marram_cloud.trees import sklearn, spark
from marram_cloud.trees.errors import TreesError
from marram_cloud.trees.features import Features
from marram_cloud.trees.source import Source

_TREES, _SPLITS = 64, 31


class ForestRoom(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Room for trees. trees: how many; splits: in each. Left out: as many as the model has, or 64 and 31."""

    trees: Annotated[int, msgspec.Meta(ge=1, le=MOST_TREES)] | None = None
    splits: Annotated[int, msgspec.Meta(ge=1, le=MOST_SPLITS)] | None = None


class ProjectFile(About, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``project.yaml``. features: what the trees look at in a window; see ``marram_cloud.trees.features``."""

    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=2)]
    features: Features = "values"
    forest: ForestRoom = ForestRoom()


class Project:
    """A loaded project. source: None for a forest that a fleet is to learn from nothing."""

    def __init__(self, folder: Path, model: Path | None = None) -> None:
        """model: a skops file or a folder of Spark ML, in place of the folder's model.py.

        Raises TreesError, ProjectError, ConfigError or CalibrationError.
        """
        self.folder = folder
        self.about = read(folder, ProjectFile)
        self.source = self._source(model)
        self.evaluation = self.about.judged(folder, "classify")

    @property
    def room(self) -> tuple[int, int]:
        """(trees, splits in each). Raises TreesError where the model does not fit what project.yaml says."""
        asked, source = self.about.forest, self.source
        if source is None:
            return asked.trees or _TREES, asked.splits or _SPLITS
        trees, splits = len(source.trees), max(1, *(len(tree.feature) for tree in source.trees))
        if trees > (asked.trees or trees) or splits > (asked.splits or splits):
            raise TreesError(
                f"{self.folder / 'project.yaml'}: forest: the model has {trees} trees of up to {splits} "
                "splits"
            )
        if trees > MOST_TREES or splits > MOST_SPLITS:
            raise TreesError(
                f"the model has {trees} trees of up to {splits} splits; a bundle takes {MOST_TREES} of "
                f"{MOST_SPLITS}: limit n_estimators, or max_leaf_nodes"
            )
        return asked.trees or trees, asked.splits or splits

    def _source(self, model: Path | None) -> Source | None:
        if model is not None and spark.is_spark(model):
            return spark.source(model, self.about.labels)
        if model is not None and model.suffix == ".skops":
            return self._of_estimator(model, sklearn.read_skops(model))
        if model is not None:
            raise TreesError(
                f"{model}: expected a file *.skops, or a folder that Spark ML wrote. A pickle or joblib file "
                "runs whatever code it holds: save the estimator with skops, or return it from model.py"
            )
        if not (self.folder / code.FILE).exists():
            return None
        own = code.Code(self.folder, "a fitted classifier")
        return self._of_estimator(own.path, own.made("model"))

    def _of_estimator(self, path: Path, estimator: object) -> Source:
        try:
            return sklearn.source(estimator, self.about.labels)
        except TreesError as error:
            raise TreesError(f"{path}: {error}") from error
