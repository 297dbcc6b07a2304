"""Trees and forests of Spark ML, from the folder that Spark's ``save`` writes, without Spark.

``metadata`` is a line of JSON, ``data`` the nodes of all trees as Parquet. A row of features goes left if its
value is at most the split's threshold. Each tree says the parts of the classes in its leaf; a forest adds
these up.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marram_cloud.trees.errors import TreesError
from marram_cloud.trees.source import Node, Source, tree

_TREE, _FOREST = "DecisionTreeClassificationModel", "RandomForestClassificationModel"


def is_spark(path: Path) -> bool:
    """Whether it is a folder that Spark ML may have written."""
    return (path / "metadata").is_dir()


def source(folder: Path, labels: Sequence[str]) -> Source:
    """Raises TreesError that says what the folder holds instead."""
    about = _metadata(folder)
    kind = str(about.get("class", "")).rpartition(".")[2]
    if kind not in (_TREE, _FOREST):
        raise TreesError(f"{folder}: holds {kind or 'no model'}; there are {_TREE} and {_FOREST} of Spark ML")
    try:
        classes, features = int(about["numClasses"]), int(about["numFeatures"])
    except (KeyError, TypeError, ValueError) as error:
        raise TreesError(
            f"{folder}: metadata does not say how many classes and features: {error!r}"
        ) from error
    if classes != len(labels):
        raise TreesError(
            f"{folder}: tells {classes} classes apart, project.yaml names {len(labels)} labels: name one for "
            "each, in the order of Spark's numbers"
        )
    rows = _rows(folder / "data")
    by_tree: dict[int, dict[int, Any]] = {}
    try:
        for row in rows:
            node = row.get("nodeData", row)
            by_tree.setdefault(int(row.get("treeID", 0)), {})[int(node["id"])] = node
        trees = tuple(tree(_nodes(by_tree[number])) for number in sorted(by_tree))
    except TreesError as error:
        raise TreesError(f"{folder}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise TreesError(f"{folder}: its nodes are not those of a tree: {error!r}") from error
    if not trees:
        raise TreesError(f"{folder}: holds no tree")
    return Source(trees, features)


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        text = "".join(part.read_text() for part in sorted((folder / "metadata").glob("part-*")))
        about = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise TreesError(f"{folder}: is no folder that Spark ML wrote: metadata: {error}") from error
    if not isinstance(about, dict):
        raise TreesError(f"{folder}: is no folder that Spark ML wrote: metadata is no JSON object")
    return about


def _rows(data: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise TreesError("reading Spark's files needs pyarrow: pip install 'marram[trees]'") from error
    parts = sorted(data.glob("*.parquet"))
    if not parts:
        raise TreesError(f"{data}: holds no Parquet file")
    try:
        return [row for part in parts for row in parquet.ParquetFile(part).read().to_pylist()]
    except (OSError, ArrowException) as error:
        raise TreesError(f"{data}: cannot be read: {error}") from error


def _nodes(rows: dict[int, Any]) -> list[Node]:
    """Spark's numbers run from 0 without gaps; 0 is the root."""
    return [_node(rows[number]) for number in range(len(rows))]


def _node(row: dict[str, Any]) -> Node:
    split, value = row["split"], [float(one) for one in row["impurityStats"]]
    if int(row["leftChild"]) < 0:
        return Node(0, 0.0, -1, -1, value)
    if int(split["numCategories"]) >= 0:
        raise TreesError(
            f"a tree splits feature {split['featureIndex']} by its categories; only splits by a threshold "
            "are supported: make numbers of such a feature (OneHotEncoder) before Spark fits them"
        )
    [threshold] = split["leftCategoriesOrThreshold"]
    return Node(
        int(split["featureIndex"]), float(threshold), int(row["leftChild"]), int(row["rightChild"]), value
    )
