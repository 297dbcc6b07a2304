"""The training itself, inside the trainer child: epochs of ``train.onnx`` over the stored windows.

One step is a pure function of the bundle (``docs/bundles.md``); this module only shuffles, pads the last
batch of an epoch with weight 0, and measures before and after on the held-out windows.
"""

from __future__ import annotations

import math
import resource
import time
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from marram.bundle.file import Bundle, read
from marram.device.resources import Resources
from marram.errors import TrainingError
from marram.learning.store import TrainingSet, read_training_set
from marram.learning.trainer import Job, Measured, NormalFile, Result
from marram.programs.program import Array, Program, ProgramOptions
from marram.storage import replace_file
from marram.wire.messages import Steps

Vector = NDArray[np.float32]
_EVALUATION_BATCH = 64
# An anomaly is what lies clearly beyond the worst that normal held-out windows gave.
_QUANTILE, _MARGIN = 0.99, 2.0


def train(job: Job) -> Result:
    """Do the job. Raises TrainingError, BundleError or ProgramError."""
    began = time.monotonic()
    bundle = read(Path(job.bundle))
    manifest = bundle.manifest
    options = ProgramOptions(threads=job.threads)
    labelled = manifest.task == "classify"
    shape = (len(manifest.channels), manifest.length)
    seen, held_out = read_training_set(Path(job.windows), shape, labelled)
    if len(seen) < max(1, job.minimum):
        raise TrainingError(f"{len(seen)} windows to train on, {max(1, job.minimum)} are needed")
    if len(held_out) == 0:
        # Too few windows for a stretch of their own: then what was trained on must do.
        held_out = seen
    parameters = _start(job, bundle)
    evaluate = bundle.program("evaluate", options)
    before = measure(evaluate, parameters, held_out, labelled)
    asked = Steps(job.epochs, job.batch, job.learning_rate, job.mu)
    trained, steps, loss = fit(
        bundle.program("train", options), asked, job.seed, manifest.training.state, parameters, seen, labelled
    )
    if steps == 0:
        loss = before.loss
    after = measure(evaluate, trained, held_out, labelled)
    if not (np.isfinite(trained).all() and math.isfinite(loss) and math.isfinite(after.loss)):
        raise TrainingError(
            "training diverged: parameters or loss are not finite any more; lower the learning rate "
            f"(it was {job.learning_rate:g})"
        )
    output = Path(job.output)
    replace_file(output / "parameters.f32", trained.astype("<f4").tobytes())
    if job.calibrate:
        normal = _normal(bundle.program("predict", options), trained, held_out)
        replace_file(output / "normal.json", msgspec.json.encode(normal))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = time.monotonic() - began
    return Result(len(seen), steps, loss, before, after, seconds, peak, Resources().memory()[1])


def _start(job: Job, bundle: Bundle) -> Vector:
    if job.parameters is None:
        return bundle.parameters()
    parameters = np.fromfile(job.parameters, "<f4").astype(np.float32)
    if parameters.shape != (bundle.manifest.parameter_count,):
        raise TrainingError(f"{job.parameters}: has {parameters.size} values, the bundle another number")
    return parameters


def fit(
    program: Program,
    asked: Steps,
    seed: int,
    state_size: int,
    start: Vector,
    data: TrainingSet,
    labelled: bool,
) -> tuple[Vector, int, float]:
    """Epochs of ``train.onnx`` from ``start`` (P,): (parameters, steps, mean loss of the last epoch).

    seed: of the shuffling, and of chance inside the program. state_size: length of the optimiser state.
    labelled: the program takes ``y``.
    """
    shuffle = np.random.default_rng(seed)
    fixed: dict[str, Array] = {
        "learning_rate": np.array(asked.learning_rate, np.float32),
        "anchor": start,
        "mu": np.array(asked.mu, np.float32),
    }
    chance = any(tensor.name == "seed" for tensor in program.inputs)
    parameters, state = start, np.zeros(state_size, np.float32)
    steps, loss = 0, math.nan
    for _ in range(asked.epochs):
        order = shuffle.permutation(len(data))
        losses = []
        for begin in range(0, len(order), asked.batch):
            batch = _batch(data, order[begin : begin + asked.batch], asked.batch, labelled)
            if chance:
                fixed["seed"] = np.array(shuffle.integers(2**31), np.int64)
            out = program(parameters=parameters, state=state, **batch, **fixed)
            parameters = out["new_parameters"].astype(np.float32, copy=False)
            state = out["new_state"].astype(np.float32, copy=False)
            losses.append(float(out["loss"]))
            steps += 1
        loss = float(np.mean(losses))
    return parameters, steps, loss


def _batch(data: TrainingSet, chosen: NDArray[np.intp], size: int, labelled: bool) -> dict[str, Array]:
    """A batch of exactly ``size`` windows; what is missing is padded and has weight 0."""
    weight = np.zeros(size, np.float32)
    weight[: len(chosen)] = 1.0
    padded = np.concatenate([chosen, np.repeat(chosen[:1], size - len(chosen))])
    batch: dict[str, Array] = {"x": data.values[padded], "weight": weight}
    if labelled:
        batch["y"] = data.labels[padded]
    return batch


def measure(program: Program, parameters: Vector, data: TrainingSet, labelled: bool) -> Measured:
    """Means of ``evaluate.onnx`` over all of ``data``."""
    loss = correct = count = 0.0
    for begin in range(0, len(data), _EVALUATION_BATCH):
        chosen = np.arange(begin, min(begin + _EVALUATION_BATCH, len(data)))
        out = program(parameters=parameters, **_batch(data, chosen, _EVALUATION_BATCH, labelled))
        loss += float(out["loss"])
        count += float(out["count"])
        correct += float(out["correct"]) if labelled else 0.0
    return Measured(int(count), loss / count, correct / count if labelled else None)


def _normal(program: Program, parameters: Vector, data: TrainingSet) -> NormalFile:
    scores: list[Vector] = []
    channels: list[Vector] = []
    for begin in range(0, len(data), _EVALUATION_BATCH):
        out = program(parameters=parameters, x=data.values[begin : begin + _EVALUATION_BATCH])
        scores.append(out["score"].astype(np.float32))
        channels.append(out["channel_scores"].astype(np.float32))
    score, channel = np.concatenate(scores), np.concatenate(channels)
    return NormalFile(
        threshold=float(np.quantile(score, _QUANTILE)) * _MARGIN,
        channel_mean=channel.mean(axis=0).astype(float).tolist(),
        channel_spread=channel.std(axis=0).astype(float).tolist(),
    )
