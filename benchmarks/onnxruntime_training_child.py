"""In the environment of onnxruntime-training: makes a step of ``loss.onnx`` and times it.

``python -I onnxruntime_training_child.py FOLDER`` reads from its input which parameters are trained and how;
it says {"milliseconds": ...} or {"error": ...}.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import types
from pathlib import Path

_RUNS, _SECONDS = 7, 0.4


def _without_torch() -> None:
    """Two of its modules import torch, which nothing here needs."""
    for name in ("optim", "amp"):
        module = types.ModuleType(f"onnxruntime.training.{name}")
        module.__getattr__ = _nothing  # type: ignore[method-assign]
        sys.modules[module.__name__] = module


def _nothing(wanted: str) -> type:
    if wanted.startswith("__"):
        raise AttributeError(wanted)
    return type(wanted, (), {})


def main(folder: Path) -> dict[str, float | str]:
    asked = json.load(sys.stdin)
    _without_torch()
    import numpy as np
    import onnx
    import onnxruntime
    from onnxruntime.training import artifacts
    from onnxruntime.training.api import CheckpointState, Module, Optimizer

    model = onnx.load(folder / "loss.onnx")
    names = {one.name for one in model.graph.initializer}
    missing = [name for name in asked["trained"] if name not in names]
    if missing:
        return {"error": f"the exported loss does not hold {missing[0]} as it is trained"}
    batch = np.load(folder / "batch.npz")
    needed = [one.name for one in model.graph.input if one.name not in names]
    arrays = [batch[name] for name in needed]
    try:
        artifacts.generate_artifacts(
            model,
            requires_grad=asked["trained"],
            frozen_params=sorted(names - set(asked["trained"])),
            optimizer=artifacts.OptimType.AdamW if asked["adamw"] else artifacts.OptimType.SGD,
            artifact_directory=str(folder),
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        state = CheckpointState.load_checkpoint(str(folder / "checkpoint"))
        module = Module(
            str(folder / "training_model.onnx"), state, session_options=options,
        )  # fmt: skip
        optimizer = Optimizer(str(folder / "optimizer_model.onnx"), module)
        optimizer.set_learning_rate(asked["learning_rate"])

        def step() -> None:
            module.train()
            module(*arrays)
            optimizer.step()
            module.lazy_reset_grad()

        step()
        return {"milliseconds": statistics.median(_milliseconds(step) for _ in range(_RUNS))}
    except Exception as error:  # its own words are the result
        return {"error": _words(error)}


def _words(error: Exception) -> str:
    """Without the signatures of C++ that stand before them."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    for before in (" was false. ", " : NOT_IMPLEMENTED : ", " : FAIL : ", " const "):
        line = line.rpartition(before)[2]
    return line[:200]


def _milliseconds(step: types.FunctionType) -> float:
    began, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - began < _SECONDS:
        step()
        count += 1
    return (time.perf_counter() - began) / count * 1000


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
