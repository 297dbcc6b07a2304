"""The one file that runs where litert-torch is installed: it imports nothing of Marram.

``python litert_convert.py FOLDER``: ``program.pt2`` is an exported program x -> outputs whose buffer
``values`` is replaced by each ``probe-N.npy``; the files made are ``probe-N.tflite``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import litert_torch
import numpy as np
import torch


def main(folder: Path) -> None:
    program = torch.export.load(folder / "program.pt2")
    (x,) = program.example_inputs[0]
    for probe in sorted(folder.glob("probe-*.npy")):
        module = program.module()
        with torch.no_grad():
            module.get_buffer("values").copy_(torch.from_numpy(np.load(probe)))
        litert_torch.convert(module, (x,)).export(str(probe.with_suffix(".tflite")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
