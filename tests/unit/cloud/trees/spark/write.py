"""Write the Spark models beside this file, with what Spark itself says of rows.

By hand, in an environment with pyspark, scikit-learn and a Java runtime:
``python tests/unit/cloud/trees/spark/write.py``. The folders are what Spark wrote, without its checksums.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from pyspark.ml.classification import DecisionTreeClassifier, GBTClassifier, RandomForestClassifier
from pyspark.ml.feature import VectorIndexer
from pyspark.ml.linalg import Vectors
from pyspark.sql import SparkSession
from sklearn.datasets import load_wine

HERE = Path(__file__).parent


def main() -> None:
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    rows, labels = load_wine(return_X_y=True)
    rows = rows.astype(np.float32)
    table = spark.createDataFrame(
        [(float(y), Vectors.dense(row.tolist())) for row, y in zip(rows, labels, strict=True)],
        ["label", "features"],
    )
    learners = {
        "tree": DecisionTreeClassifier(maxDepth=4, seed=1),
        "forest": RandomForestClassifier(numTrees=7, maxDepth=4, seed=1),
    }
    said = {}
    for name, learner in learners.items():
        model = learner.fit(table)
        _save(model, name)
        said[name] = np.array([row.probability.toArray() for row in model.transform(table).collect()])
    few = (
        VectorIndexer(inputCol="features", outputCol="indexed", maxCategories=60).fit(table).transform(table)
    )
    _save(DecisionTreeClassifier(featuresCol="indexed", maxBins=64, seed=1).fit(few), "categorical")
    two = table.where("label < 2")
    _save(GBTClassifier(maxIter=2, maxDepth=2, seed=1).fit(two), "boosted")
    np.savez_compressed(HERE / "said.npz", rows=rows, labels=labels, **said)
    spark.stop()


def _save(model: object, name: str) -> None:
    target = HERE / name
    shutil.rmtree(target, ignore_errors=True)
    model.write().save(str(target))
    for checksum in target.rglob(".*.crc"):
        checksum.unlink()


if __name__ == "__main__":
    main()
