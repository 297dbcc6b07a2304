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
from marram.errors import BundleError, ProgramError, TrainingError
from marram.learning.forest import training as trees
from marram.learning.int8 import (
    Judge,
    Run,
    blocks,
    decode_arrays,
    encode_arrays,
    extremes,
    in_int8,
    no_slower,
    normal_scores,
    one_window,
)
from marram.learning.store import TrainingSet, read_new_windows, read_training_set
from marram.learning.trainer import (
    CONTRIBUTION,
    Check,
    Int8Limits,
    Int8Outcome,
    Job,
    Measured,
    NormalFile,
    Result,
)
from marram.programs.program import Array, Program, ProgramOptions
from marram.storage import replace_file
from marram.wire.messages import Steps
from marram.wire.trees import encode

Vector = NDArray[np.float32]
_EVALUATION_BATCH = 64
# The ranges of activations are told of this many blocks of windows or more, so that none stands out.
_RANGE_BLOCKS, _RANGE_BATCH, _RANGE_QUANTILE = 8, 16, 0.9


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
    seen, held_out = (_features(bundle, part, options) for part in (seen, held_out))
    parameters = _start(job, bundle)
    if manifest.forest:
        trees.forest(bundle, parameters)
    evaluate = bundle.head("evaluate", options)
    before = measure(evaluate, parameters, held_out, labelled)
    if manifest.forest:
        trained, steps, loss = _grow(job, bundle, parameters, seen, held_out, options)
    else:
        asked = Steps(job.epochs, job.batch, job.learning_rate, job.mu)
        program = bundle.head("train", options)
        trained, steps, loss = fit(
            program, asked, job.seed, manifest.training.state, parameters, seen, labelled
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
    exact = _predict(bundle, trained, options)
    normal = normal_scores(exact, held_out.values) if job.calibrate else None
    if normal is not None:
        replace_file(output / "normal.json", msgspec.json.encode(normal))
    int8 = _int8(job, job.int8, bundle, trained, seen, held_out, exact, normal) if job.int8 else None
    ranges = _ranges(bundle, parameters, seen.values, job.seed, options) if job.ranges else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = time.monotonic() - began
    return Result(len(seen), steps, loss, before, after, seconds, peak, Resources().memory()[1], int8, ranges)


def _features(bundle: Bundle, windows: TrainingSet, options: ProgramOptions) -> TrainingSet:
    """What the backbone makes of the windows, once for all epochs; the windows where there is none."""
    return TrainingSet(bundle.features(windows.values, options), windows.labels)


def _grow(
    job: Job, bundle: Bundle, forest: Vector, seen: TrainingSet, held_out: TrainingSet,
    options: ProgramOptions,
) -> tuple[Vector, int, float]:  # fmt: skip
    """As ``fit`` for a forest; the loss is that of the new forest on the windows that it grew on."""
    grown = trees.train(bundle, forest, seen, held_out, job.trees, job.seed, options)
    if job.trees:
        replace_file(Path(job.output) / CONTRIBUTION, encode(grown.contribution))
    loss = measure(bundle.program("evaluate", options), grown.own, seen, labelled=True).loss
    return grown.own, len(grown.contribution.trees), loss


def _predict(bundle: Bundle, parameters: Vector, options: ProgramOptions) -> Run:
    program = bundle.head("predict", options)
    return lambda x: program(parameters=parameters, x=x)


def _int8(
    job: Job, limits: Int8Limits, bundle: Bundle, trained: Vector, seen: TrainingSet, held_out: TrainingSet,
    exact: Run, normal: NormalFile | None,
) -> Int8Outcome:  # fmt: skip
    """Make int8 of the new parameters and judge it; what goes wrong with it costs the training nothing."""
    options = ProgramOptions(threads=job.threads)
    try:
        arrays = in_int8(bundle, trained, seen.values, options)
        program = bundle.head("infer", options, arrays)
        coarse: Run = lambda x: program(x=x)  # noqa: E731
        coarse_normal = normal_scores(coarse, held_out.values) if normal is not None else None
        judge = Judge(limits, exact, coarse, bundle.manifest.task == "classify")
        outcome = judge.on(held_out, normal, coarse_normal)
        if outcome.used and limits.fast:
            outcome = no_slower(outcome, *one_window(exact, coarse, held_out.values[:1]))
    except (BundleError, ProgramError) as error:
        return Int8Outcome(False, f"there is no int8 form: {error}")
    if outcome.used:
        replace_file(Path(job.output) / "int8.safetensors", encode_arrays(arrays))
    return msgspec.structs.replace(outcome, normal=coarse_normal)


def check(work: Check) -> Int8Outcome:
    """How int8 does on windows that came since the last training. Raises TrainingError, BundleError ..."""
    bundle = read(Path(work.bundle))
    manifest, options = bundle.manifest, ProgramOptions(threads=work.threads)
    labelled = manifest.task == "classify"
    shape = (len(manifest.channels), manifest.length)
    parameters = np.fromfile(work.parameters, "<f4").astype(np.float32)
    program = bundle.head("infer", options, decode_arrays(Path(work.arrays).read_bytes()))
    judge = Judge(work.limits, _predict(bundle, parameters, options), lambda x: program(x=x), labelled)
    new = read_new_windows(Path(work.windows), shape, labelled)
    if len(new) == 0:
        return Int8Outcome(True, "")
    return judge.on(_features(bundle, new, options), work.normal, work.normal_int8, new=True)


def _ranges(
    bundle: Bundle, parameters: Vector, windows: Vector, seed: int, options: ProgramOptions
) -> tuple[list[float], list[float]] | None:
    """(minimum, maximum) of each activation: a quantile over blocks of windows, never one window's extreme.

    None with too few windows for that, or without the program.
    """
    if "calibrate" not in bundle.manifest.programs or len(windows) < _RANGE_BLOCKS * _RANGE_BATCH:
        return None
    mixed = windows[np.random.default_rng(seed).permutation(len(windows))]
    whole = mixed[: len(mixed) - len(mixed) % _RANGE_BATCH]
    seen = extremes(bundle.head("calibrate", options), parameters, blocks(whole, _RANGE_BATCH))
    low = np.quantile(seen.minimum.astype(np.float64), 1 - _RANGE_QUANTILE, axis=0)
    high = np.quantile(seen.maximum.astype(np.float64), _RANGE_QUANTILE, axis=0)
    return (low.tolist(), high.tolist()) if np.isfinite([low, high]).all() else None


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
