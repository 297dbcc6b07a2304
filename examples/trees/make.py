"""Makes what the example runs on (needs the extra ``trees``; nothing is downloaded).

    python -m examples.trees.make [FOLDER]

FOLDER (build/trees) then holds the project with the rows that no device sees, each clinic's rows as a
recording, and the bundle: room for a forest that has learnt nothing yet.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from marram_cloud.trees.build import Report, build

from examples.trees.tables import Labels, Rows, Table, cancer

PROJECT = Path(__file__).parent / "project.yaml"


def make(folder: Path) -> Report:
    """Write all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    table = cancer()
    shutil.copy(PROJECT, folder / "project.yaml")
    rows, labels = table.strangers
    # On the first the workshop judges a forest, on the second `release build` compares one.
    for name in ("evaluation.npz", "calibration.npz"):
        np.savez_compressed(folder / name, windows=rows[:, :, None], labels=labels)
    for number, (rows, labels) in enumerate(table.devices, start=1):
        record(folder / f"clinic-{number}.csv", table, rows, labels)
    return build(folder)


def record(path: Path, table: Table, rows: Rows, labels: Labels) -> None:
    """A row a second, with its label."""
    lines = (
        [f"{second}", *(repr(float(value)) for value in row), table.labels[label]]
        for second, (row, label) in enumerate(zip(rows, labels, strict=True))
    )
    path.write_text(_csv([["time", *table.names, "diagnosis"], *lines]))


def _csv(lines: Iterable[Sequence[str]]) -> str:
    return "".join(",".join(line) + "\n" for line in lines)


if __name__ == "__main__":
    print(make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("build") / "trees"))
