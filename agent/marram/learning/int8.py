"""Parameters that this device trained, in int8: made, and judged against float32, inside the trainer child.

Ranges are measured on the windows that were trained on, and int8 is judged on those held out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from marram.bundle.file import Bundle
from marram.bundle.int8 import int8_arrays
from marram.errors import BundleError
from marram.learning.store import TrainingSet
from marram.learning.trainer import Int8Limits, Int8Outcome, NormalFile
from marram.programs.program import Array, Program, ProgramOptions

Floats = NDArray[np.float32]
Run = Callable[[Floats], dict[str, Array]]
Pair = tuple[dict[str, Array], dict[str, Array]]
_BATCH = 64
# An anomaly is what lies clearly beyond the worst that normal held-out windows gave.
_QUANTILE, _MARGIN = 0.99, 2.0
# Times of the same program differ by some parts in a hundred.
_TURNS, _NOISE = 51, 1.05
_LONGEST = 2e6  # us, for a large model


@dataclass(frozen=True)
class Extremes:
    """Of each quantised activation in each block of windows: minimum, maximum float32 (blocks, A)."""

    minimum: Floats
    maximum: Floats
    tensors: dict[str, Array]


def blocks(windows: Floats, size: int = _BATCH) -> Iterator[Floats]:
    """Windows (n, channels, length) in blocks of at most ``size``."""
    return (windows[begin : begin + size] for begin in range(0, len(windows), size))


def extremes(calibrate: Program, parameters: Floats, parts: Iterator[Floats]) -> Extremes:
    """Run ``calibrate.onnx`` over blocks of windows. parameters: float32 (P,)."""
    low, high = [], []
    out: dict[str, Array] = {}
    for part in parts:
        out = calibrate(parameters=parameters, x=part)
        if not out.keys() >= {"minimum", "maximum"}:
            raise BundleError("the calibrate program gives no minimum and maximum")
        low.append(out.pop("minimum").astype(np.float32))
        high.append(out.pop("maximum").astype(np.float32))
    return Extremes(np.stack(low), np.stack(high), out)


def in_int8(bundle: Bundle, parameters: Floats, windows: Floats, options: ProgramOptions) -> dict[str, Array]:
    """The arrays that ``infer.onnx`` is to be loaded with. windows: (n, channels, length), or a backbone's
    features of them; n above 0.

    Raises BundleError or ProgramError where there is no int8 form of these parameters.
    """
    layout = bundle.manifest.int8
    if layout is None:
        raise BundleError("the bundle has no calibrate program")
    seen = extremes(bundle.head("calibrate", options), parameters, blocks(windows))
    return int8_arrays(layout, seen.tensors, seen.minimum.min(axis=0), seen.maximum.max(axis=0))


def encode_arrays(arrays: dict[str, Array]) -> bytes:
    """As a file; the same arrays give the same bytes."""
    data: bytes = safetensors.numpy.save({name: np.array(array) for name, array in sorted(arrays.items())})
    return data


def decode_arrays(data: bytes) -> dict[str, Array]:
    """Raises BundleError for bytes that are no such file."""
    try:
        arrays: dict[str, Array] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise BundleError(f"the device's own int8 parameters cannot be read: {error}") from error
    return arrays


# ---- is it as good


def normal_scores(run: Run, windows: Floats) -> NormalFile:
    """What a reconstruct model's scores of normal windows look like."""
    outputs = [run(part) for part in blocks(windows)]
    score = np.concatenate([one["score"].astype(np.float32) for one in outputs])
    channel = np.concatenate([one["channel_scores"].astype(np.float32) for one in outputs])
    return NormalFile(
        threshold=float(np.quantile(score, _QUANTILE)) * _MARGIN,
        channel_mean=channel.mean(axis=0).astype(float).tolist(),
        channel_spread=channel.std(axis=0).astype(float).tolist(),
    )


@dataclass(frozen=True)
class Judge:
    """Compares two ways to run one model. exact, coarse: float32 and int8. labelled: a classify model."""

    limits: Int8Limits
    exact: Run
    coarse: Run
    labelled: bool

    def on(
        self,
        data: TrainingSet,
        exact_normal: NormalFile | None = None,
        coarse_normal: NormalFile | None = None,
        new: bool = False,
    ) -> Int8Outcome:
        """Whether int8 may run. new: windows that came later, of which nobody knows that they are normal.

        One window more or less decides nothing, however few there are.
        """
        pairs = [(self.exact(part), self.coarse(part)) for part in blocks(data.values)]
        if not all(np.isfinite(value).all() for _, coarse in pairs for value in coarse.values()):
            return Int8Outcome(False, "int8 gives NaN or infinity", len(data))
        if self.labelled:
            return self._classified(pairs, data)
        limits = [one.threshold if one is not None else np.inf for one in (exact_normal, coarse_normal)]
        return self._scored(pairs, limits, new)

    def _classified(self, pairs: list[Pair], data: TrainingSet) -> Int8Outcome:
        fp32, int8 = (
            np.concatenate([pair[side]["scores"].argmax(axis=1) for pair in pairs]) for side in (0, 1)
        )
        known = data.labels >= 0
        accuracy = [
            float((found[known] == data.labels[known]).mean()) if known.any() else None
            for found in (fp32, int8)
        ]
        reason = self._disagreement(fp32 == int8)
        if accuracy[0] is not None and accuracy[1] is not None and not reason:
            lost = (accuracy[0] - accuracy[1]) * known.sum()
            if lost > max(self.limits.accuracy * known.sum(), 1.0) + 1e-9:
                reason = f"accuracy falls from {accuracy[0]:.3f} to {accuracy[1]:.3f} in int8"
        agreement = float((fp32 == int8).mean())
        return Int8Outcome(not reason, reason, len(data), agreement, accuracy[0], accuracy[1])

    def _scored(self, pairs: list[Pair], limits: list[float], new: bool) -> Int8Outcome:
        fp32, int8 = (
            np.concatenate([pair[side]["score"].astype(np.float64) for pair in pairs]) for side in (0, 1)
        )
        alike = (fp32 > limits[0]) == (int8 > limits[1])
        error = float(np.abs(int8 - fp32).mean() / max(float(np.abs(fp32).mean()), 1e-12))
        reason = self._disagreement(alike)
        # A window that is far from normal may lie beyond int8's ranges: there only the verdict counts.
        if not reason and not new and error > self.limits.score:
            reason = f"scores are off by {error:.0%} in int8, at most {self.limits.score:.0%} is allowed"
        return Int8Outcome(not reason, reason, len(alike), float(alike.mean()), score=error)

    def _disagreement(self, alike: NDArray[np.bool_]) -> str:
        different = int((~alike).sum())
        if different <= max((1.0 - self.limits.agreement) * len(alike), 1.0) + 1e-9:
            return ""
        return (
            f"int8 says the same as float32 of {alike.mean():.1%} of {len(alike)} windows, "
            f"{self.limits.agreement:.1%} is asked for"
        )


# ---- is it as fast


def one_window(exact: Run, coarse: Run, window: Floats) -> tuple[float, float]:
    """Medians of what float32 and int8 take for it, in turns, in microseconds. window: (1, channels, length).

    One, because a device hands windows to its model as they come.
    """
    taken: tuple[list[float], list[float]] = ([], [])
    while len(taken[0]) < _TURNS and sum(map(sum, taken)) < _LONGEST:
        for run, times in zip((exact, coarse), taken, strict=True):
            began = time.perf_counter()
            run(window)
            times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(taken[0]), statistics.median(taken[1])


def no_slower(outcome: Int8Outcome, fp32: float, int8: float) -> Int8Outcome:
    """What is as good may run only if it takes no longer. fp32, int8: microseconds."""
    timed = msgspec.structs.replace(outcome, fp32_us=round(fp32, 1), int8_us=round(int8, 1))
    if int8 <= fp32 * _NOISE:
        return timed
    reason = f"int8 takes {int8:.0f} us for a window, float32 {fp32:.0f} us"
    return msgspec.structs.replace(timed, used=False, reason=reason)
