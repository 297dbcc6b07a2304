"""What the workshop found out about a model, as ``report.json`` has it; the page shows the same."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import safetensors.numpy
from marram.bundle.file import PARAMETERS, Bundle
from marram.storage import replace_file
from marram.wire.codec.chain import Chain
from numpy.typing import NDArray

from marram_cloud.compression.cost import Cost, measure_cost
from marram_cloud.compression.folding import fold
from marram_cloud.compression.operators import Layer
from marram_cloud.workshop.budget import Budget, Candidate, front
from marram_cloud.workshop.search import Trial

CHAINS = (
    "float32",
    "clip(10)|quantise(8)",
    "clip(10)|feedback|rotate(256)|quantise(4)",
    "clip(10)|feedback|rotate(256)|quantise(2)",
    "clip(10)|feedback|rotate(256)|quantise(1)",
    "clip(10)|feedback|topk(0.05)|float16",
)
_STEPS = 200


class LayerFinding(msgspec.Struct, frozen=True):
    """name: its weight's in the module, else the node's. error: relative difference of the outputs when only
    this layer is int8. kept_float: it stays in float in the bundle."""

    name: str
    operator: str
    shape: tuple[int, ...]
    error: float
    kept_float: bool


class Findings(msgspec.Struct, frozen=True):
    """first: the unpruned fp32 model, to which the losses refer. chosen: what the bundle holds. front: names
    of the candidates on the Pareto front. train: one step with ``batch`` windows. chains: bytes of a round's
    delta. members: bytes of the bundle's files. machine: where the times are from.
    judged_on: the file of the windows that quality is of. tflite: how the form for LiteRT was made, and what
    was tried for it; "" where there is none."""

    name: str
    version: str
    task: str
    labels: tuple[str, ...]
    bundle_bytes: int
    first: Candidate
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    front: tuple[str, ...]
    budget: Budget
    layers: tuple[LayerFinding, ...]
    batch: int
    train: Cost
    chains: dict[str, int]
    members: dict[str, int]
    machine: str
    judged_on: str
    tflite: str = ""


def findings(
    bundle: Bundle, trials: Sequence[Trial], chosen: Trial, budget: Budget, windows: NDArray[np.float32],
    judged_on: str, tflite: str,
) -> Findings:  # fmt: skip
    """Of a built bundle and the trials that led to it. windows: some to time a training step with."""
    manifest = bundle.manifest
    candidates = tuple(one.measured for one in trials)
    return Findings(
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        labels=manifest.labels,
        bundle_bytes=sum(len(one) for one in bundle.members.values()),
        first=candidates[0],
        chosen=chosen.measured,
        candidates=candidates,
        front=tuple(one.name for one in front(candidates)),
        budget=budget,
        layers=_layers(bundle, trials, chosen),
        batch=manifest.training.batch,
        train=_training_step(bundle, windows),
        chains={spec: Chain.parse(spec).size(manifest.parameter_count) for spec in CHAINS},
        members={name: len(content) for name, content in sorted(bundle.members.items())},
        machine=f"{platform.machine()}, {platform.system()}, one thread",
        judged_on=judged_on,
        tflite=tflite,
    )


def _layers(bundle: Bundle, trials: Sequence[Trial], chosen: Trial) -> tuple[LayerFinding, ...]:
    """Of the chosen module, or of that from which it was trained for int8."""
    alike = [one for one in trials if one.layers and one.measured.pruned == chosen.measured.pruned]
    flat = bundle.parameters()
    predict = bundle.members[bundle.manifest.programs["predict"].file]
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in fold(predict, flat).graph.initializer}
    tensors = safetensors.numpy.load(bundle.members[PARAMETERS])
    named = {np.sort(value, axis=None).tobytes(): name for name, value in tensors.items()}

    def name(layer: Layer) -> str:
        """Folded weights may be turned or reshaped, but have the parameter's values."""
        value = weights.get(layer.weight)
        return layer.name if value is None else named.get(np.sort(value, axis=None).tobytes(), layer.name)

    return tuple(
        LayerFinding(
            name(one.layer), one.layer.operator, one.layer.shape, one.error,
            one.layer.name in chosen.keep_float,
        )
        for one in alike[0].layers
    )  # fmt: skip


def write_json(found: Findings, path: Path) -> None:
    """As ``report.json``."""
    replace_file(path, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")


def _training_step(bundle: Bundle, windows: NDArray[np.float32]) -> Cost:
    manifest = bundle.manifest
    batch = manifest.training.batch
    known: dict[str, NDArray[Any]] = {
        "x": np.resize(windows, (batch, *windows.shape[1:])),
        "parameters": bundle.parameters(),
        "anchor": bundle.parameters(),
        "weight": np.ones(batch, np.float32),
    }
    about = manifest.programs["train"]
    inputs = {
        tensor.name: known[tensor.name]
        if tensor.name in known
        else np.zeros([batch if isinstance(size, str) else size for size in tensor.shape], tensor.dtype)
        for tensor in about.inputs
    }
    return measure_cost(bundle.members[about.file], inputs, _STEPS)
