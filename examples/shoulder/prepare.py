"""Turns the recordings inside the PyPI package seglearn 1.2.5 into one compact recording a person.

    pip download --no-deps seglearn==1.2.5
    python examples/shoulder/prepare.py seglearn-1.2.5-py3-none-any.whl

The result is committed, so nobody has to run this to use the example.
"""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

RATE = 50.0
PAUSE = 10.0  # seconds between two series, so that no window spans both
HEADER = "time,ax,ay,az,wx,wy,wz,exercise,side"
HERE = Path(__file__).parent
MEMBER = "seglearn/data/watch_dataset.npy"


def main(wheel: Path) -> None:
    """Write recordings/person-NN.csv.gz for all ten people."""
    with zipfile.ZipFile(wheel) as archive:
        # The package ships a pickled dictionary; it is read from a wheel that the caller chose.
        data = np.load(io.BytesIO(archive.read(MEMBER)), allow_pickle=True).item()
    for person in range(1, 11):
        lines, clock = [HEADER], 0.0
        for series, label, side in zip(
            *(of_person(data, key, person) for key in ("X", "y", "side")), strict=True
        ):
            name, hand = data["y_labels"][int(label)], "right" if side else "left"
            for row in np.asarray(series, np.float64):
                lines.append(f"{clock:.2f}," + ",".join(f"{value:.3f}" for value in row) + f",{name},{hand}")
                clock += 1 / RATE
            clock += PAUSE
        target = HERE / "recordings" / f"person-{person:02}.csv.gz"
        target.parent.mkdir(exist_ok=True)
        with target.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file:
            file.write("\n".join(lines).encode() + b"\n")
        print(f"{target}: {len(lines) - 1} samples, {target.stat().st_size} bytes")


def of_person(data: dict, key: str, person: int) -> list:
    """The entries of one person, in the package's order."""
    return [value for value, who in zip(data[key], data["subject"], strict=True) if int(who) == person]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
