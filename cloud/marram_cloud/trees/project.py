"""A forest's project: a folder with ``project.yaml``, and what fitted it, if anything did.

``model.py`` may define ``model()`` that returns a fitted scikit-learn classifier. ``evaluation.npz`` may hold
``windows`` float32 (n, channels, length) and ``labels`` int64 (n,), on which the forest is judged.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from marram.bundle.manifest import Channel, ModelCard, Name
from marram.config.load import load
from marram.wire.trees import MOST_SPLITS, MOST_TREES

from marram_cloud.releases.calibration import Calibration, read_calibration
from marram_cloud.trees import sklearn, spark
from marram_cloud.trees.errors import TreesError
from marram_cloud.trees.features import Features
from marram_cloud.trees.source import Source

_TREES, _SPLITS = 64, 31


class ForestRoom(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Room for trees. trees: how many; splits: in each. Left out: as many as the model has, or 64 and 31."""

    trees: Annotated[int, msgspec.Meta(ge=1, le=MOST_TREES)] | None = None
    splits: Annotated[int, msgspec.Meta(ge=1, le=MOST_SPLITS)] | None = None


class ProjectFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``project.yaml``. features: what the trees look at in a window; see ``marram_cloud.trees.features``."""

    name: Name
    version: str = "0"
    channels: Annotated[tuple[Channel, ...], msgspec.Meta(min_length=1)]
    rate: Annotated[float, msgspec.Meta(gt=0)]
    length: Annotated[int, msgspec.Meta(gt=0)]
    stride: Annotated[int, msgspec.Meta(gt=0)]
    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=2)]
    features: Features = "values"
    forest: ForestRoom = ForestRoom()
    card: ModelCard = ModelCard()

    def problems(self) -> Iterable[tuple[tuple[str], str]]:
        """Cross-field mistakes."""
        if len(set(self.labels)) < len(self.labels):
            yield ("labels",), "expected each label once"


class Project:
    """A loaded project. source: None for a forest that a fleet is to learn from nothing."""

    def __init__(self, folder: Path, model: Path | None = None) -> None:
        """model: a skops file or a folder of Spark ML, in place of the folder's model.py.

        Raises TreesError, ConfigError or CalibrationError.
        """
        self.folder = folder
        self.about = load(folder / "project.yaml", ProjectFile)
        self.source = self._source(model)
        self.evaluation = self._evaluation()

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
        labels = self.about.labels
        if model is not None and spark.is_spark(model):
            return spark.source(model, labels)
        if model is not None and model.suffix == ".skops":
            return sklearn.source(sklearn.read_skops(model), labels)
        if model is not None:
            raise TreesError(
                f"{model}: expected a file *.skops, or a folder that Spark ML wrote. A pickle or joblib file "
                "runs whatever code it holds: save the estimator with skops, or return it from model.py"
            )
        path = self.folder / "model.py"
        return sklearn.source(_returned(path), labels) if path.exists() else None

    def _evaluation(self) -> Calibration | None:
        path = self.folder / "evaluation.npz"
        if not path.exists():
            return None
        found = read_calibration(path, len(self.about.channels), self.about.length)
        if found.labels is None or not 0 <= found.labels.min() <= found.labels.max() < len(self.about.labels):
            raise TreesError(
                f"{path}: expected an array 'labels', int64 (n,), from 0 to {len(self.about.labels) - 1}"
            )
        return found


def _returned(path: Path) -> object:
    spec = importlib.util.spec_from_file_location("marram_project_trees", path)
    assert spec is not None and spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(code)
        made: object = code.model()
    except Exception as error:  # whatever the author's own code raises
        said = f"{type(error).__name__}: {error}"
        raise TreesError(f"{path}: should define model() -> a fitted classifier: {said}") from error
    return made
