"""The same training steps by onnxruntime-training 1.19.2, in an environment of its own.

``make .venv-onnxruntime-training`` makes that (x86-64, Python up to 3.12). The loss is exported from PyTorch;
gradients and optimiser are what onnxruntime-training makes of it (``onnxruntime_training_child.py``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.pages import ROOT
from tests.zoo.eager import Eager, Labels, Windows

PYTHON = ROOT / ".venv-onnxruntime-training" / "bin" / "python"
_CHILD = Path(__file__).with_name("onnxruntime_training_child.py")
_OPSET = 15  # of the newest that it differentiates
_PATIENCE = 300.0


class _Loss(nn.Module):
    """A loss as a module: what onnxruntime-training makes a step of."""

    def __init__(self, eager: Eager) -> None:
        super().__init__()
        self.module, self._loss = eager.module, eager.loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with patch.object(functional, "huber_loss", _huber):
            return self._loss(x, y)


def _huber(made: Tensor, target: Tensor) -> Tensor:
    """By operators that the exporter knows: with a = |error|, a*a/2 below 1 and a - 1/2 above."""
    error = (made - target).abs()
    above = torch.relu(error - 1)
    below = error - above
    return (below * below / 2 + above).mean()


def step(eager: Eager, adamw: bool, rate: float, x: Windows, y: Labels, folder: Path) -> float | str:
    """Milliseconds of a step of this batch on one thread, or why there is none. folder: for its files."""
    if not PYTHON.exists():
        return "not installed: make .venv-onnxruntime-training"
    folder.mkdir()
    try:
        _export(_Loss(eager), torch.from_numpy(x), torch.from_numpy(y), folder / "loss.onnx")
    except Exception as error:  # whatever the exporter says: then there is nothing to compare with
        return f"cannot: {_first(error)}"
    np.savez(folder / "batch.npz", x=x, y=y)
    trained = [f"module.{name}" for name, one in eager.module.named_parameters() if one.requires_grad]
    asked = {"trained": trained, "adamw": adamw, "learning_rate": rate}
    try:
        done = subprocess.run(
            [PYTHON, "-I", _CHILD, folder], input=json.dumps(asked), capture_output=True, text=True,
            timeout=_PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"cannot: no step within {_PATIENCE:g} s"
    lines = done.stdout.splitlines()
    if not lines:
        return f"cannot: it died with status {done.returncode}"
    answer = json.loads(lines[-1])
    return float(answer["milliseconds"]) if "milliseconds" in answer else f"cannot: {answer['error']}"


def _export(loss: _Loss, x: Tensor, y: Tensor, path: Path) -> None:
    """By PyTorch's older exporter, whose files are of a version that onnxruntime-training 1.19 takes."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            loss, (x, y), path, dynamo=False, opset_version=_OPSET, input_names=["x", "y"],
            output_names=["loss"], training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        )  # fmt: skip


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
