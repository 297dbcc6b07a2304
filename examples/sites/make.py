"""Makes the bundles of the sites in firmware_configs/models, by the workshop (needs torch).

    python -m examples.sites.make

The models are untrained: each device learns what is normal where it is. The simulators give the spread of
each channel, and the windows on which int8 ranges are measured.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from marram_cloud.workshop.build import build

from examples.sites.simulate import SITES, rows

MODELS = Path(__file__).parents[2] / "firmware_configs" / "models"
_WINDOWS = 128
# Samples of a window, and from one to the next.
SHAPES = {
    "press-line": (64, 64),
    "traffic-junction": (15, 3),
    "ward": (60, 15),
    "till": (30, 5),
    "cold-cabinets": (30, 10),
}
UNITS = {
    "ax": "m/s2", "ay": "m/s2", "az": "m/s2", "heart_rate": "1/min", "breaths": "1/min", "cabinet_1": "degC",
    "cabinet_2": "degC", "freezer": "degC", "compressor": "A", "transactions": "1/min", "voided": "1/min",
}  # fmt: skip
_MODEL = """\
from marram_cloud.workshop.models.autoencoder import Autoencoder


def model() -> Autoencoder:
    return Autoencoder(centre={centre}, spread={spread}, length={length})
"""


def main() -> int:
    for site, (length, stride) in SHAPES.items():
        with tempfile.TemporaryDirectory() as name:
            print(_make(site, length, stride, Path(name)))
    return 0


def _make(site: str, length: int, stride: int, folder: Path) -> Path:
    rate, _ = SITES[site]
    readings = list(rows(site, (_WINDOWS * stride + length) / rate))
    names = [name for name in readings[0] if name != "t"]
    values = np.array([[row[name] for row in readings] for name in names], np.float32)
    starts = np.arange(_WINDOWS) * stride
    windows = np.stack([values[:, start : start + length] for start in starts])
    centre = [round(float(one), 3) for one in values.mean(axis=1)]
    spread = [round(max(float(one), 0.05), 3) for one in values.std(axis=1) * 2]
    (folder / "model.py").write_text(_MODEL.format(centre=centre, spread=spread, length=length))
    np.savez_compressed(folder / "calibration.npz", windows=windows)
    project = {
        "name": site,
        "task": "reconstruct",
        "channels": [{"name": name, **({"unit": UNITS[name]} if name in UNITS else {})} for name in names],
        "rate": rate,
        "length": length,
        "stride": stride,
        "seed": 1,
        "training": {"learning_rate": 0.05, "batch": 16, "epochs": 60},
        "card": {
            "description": "What is normal at one site. Untrained; each device learns its own.",
            "data": "none; calibrated on windows of examples/sites/simulate.py",
            "licence": "Apache-2.0",
        },
    }
    (folder / "project.yaml").write_text(yaml.safe_dump(project, sort_keys=False))
    MODELS.mkdir(exist_ok=True)
    return shutil.copy(build(folder).path, MODELS / f"{site}.marram")


if __name__ == "__main__":
    sys.exit(main())
