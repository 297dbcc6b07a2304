"""A module's form for LiteRT: a template, made by litert-torch in an environment of its own.

litert-torch brings jax and transformers, 2 GB that nothing else here needs. ``make .venv-litert`` installs
it; another place is named by MARRAM_LITERT_PYTHON.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from marram_cloud.compression.errors import CompressionError
from marram_cloud.litert.quantise import Wanted
from marram_cloud.litert.template import make, probe
from marram_cloud.workshop import gru, lstm
from marram_cloud.workshop.converters import Converter

_SEEDS = (1, 2)

LITERT_TORCH = Converter(
    "litert-torch", ".venv-litert", "MARRAM_LITERT_PYTHON", Path(__file__).with_name("litert_convert.py")
)


def template(
    function: Callable[..., tuple[Tensor, ...]],
    predict: bytes,
    parameters: Tensor,
    window: tuple[int, int],
    outputs: Sequence[str],
    wanted: Wanted,
) -> bytes:
    """function: (parameters, x) -> outputs. window: (channels, length). Raises CompressionError."""
    probes = [probe(len(parameters), seed) for seed in _SEEDS]
    x = torch.zeros(1, *window)
    try:
        exported = torch.export.export(_WithParameters(function, parameters), (x,), strict=False)
        # Without what writes in place, which a second export would refuse.
        exported = exported.run_decompositions({**gru.PLAIN, **lstm.PLAIN})
    except Exception as error:
        raise CompressionError(f"LiteRT gets no form of this model: {_first_line(error)}") from error
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.export.save(exported, folder / "program.pt2")
        for number, values in enumerate(probes):
            np.save(folder / f"probe-{number}.npy", values)
        LITERT_TORCH.run(folder)
        converted = [(folder / f"probe-{number}.tflite").read_bytes() for number in range(len(probes))]
    return make(predict, probes, converted, {"inputs": ["x"], "outputs": outputs}, wanted)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _WithParameters(nn.Module):
    """The function with its parameters inside, as a converter wants it."""

    values: Tensor

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], parameters: Tensor) -> None:
        super().__init__()
        self._function = function
        self.register_buffer("values", parameters.clone())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self._function(self.values, x)
