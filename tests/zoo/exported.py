"""One training step of a bundle's exported program."""

from __future__ import annotations

import numpy as np
from marram.bundle.file import Bundle
from marram.programs.program import ProgramOptions
from numpy.typing import NDArray

Windows, Labels = NDArray[np.float32], NDArray[np.int64]


class Exported:
    """The step of a bundle's train.onnx, on one thread. parameters: from which it goes on."""

    def __init__(self, bundle: Bundle) -> None:
        self._program = bundle.program("train", ProgramOptions(threads=1))
        self._names = {tensor.name for tensor in self._program.inputs}
        training = bundle.manifest.training
        self.parameters = bundle.parameters()
        self._state = np.zeros(training.state, np.float32)
        self._fixed = {
            "learning_rate": np.array(training.learning_rate, np.float32),
            "anchor": self.parameters,
            "mu": np.array(0, np.float32),
        }
        self._steps = 0

    def step(self, x: Windows, y: Labels) -> float:
        """The loss before it."""
        given = {
            "parameters": self.parameters, "state": self._state, "x": x, "y": y,
            "weight": np.ones(len(x), np.float32), "seed": np.array(self._steps, np.int64), **self._fixed,
        }  # fmt: skip
        out = self._program(**{name: value for name, value in given.items() if name in self._names})
        self.parameters, self._state = out["new_parameters"], out["new_state"]
        self._steps += 1
        return float(out["loss"])
