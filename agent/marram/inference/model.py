"""The model that inference runs right now: an int8 program, or the device's own fp32 parameters.

A model is loaded aside and put in place as a whole between two batches, so that a swap loses no window.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marram.bundle.file import Bundle
from marram.bundle.manifest import InferRole, Manifest
from marram.errors import BundleError, NotFiniteError, ProgramError
from marram.inference.prediction import Cause, Prediction
from marram.programs.program import Array, ProgramOptions
from marram.stream.blocks import Windows

_MOST_CAUSES = 3
_LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Normal:
    """What a reconstruct or forecast model's scores look like when nothing is wrong, measured on this device.

    threshold: above it a window is an anomaly. channel_mean, channel_spread: float32 (channels,), of the
    channels' own scores on normal windows.
    """

    threshold: float
    channel_mean: NDArray[np.float32]
    channel_spread: NDArray[np.float32]


@dataclass(frozen=True)
class Model:
    """One loaded model. run: x float32 (n, channels, length) -> named outputs.

    runtime: "onnx" or "tflite"; why: that one and not the other, for people.
    """

    manifest: Manifest
    name: str
    run: Callable[[NDArray[np.float32]], dict[str, Array]]
    normal: Normal | None = None
    runtime: str = ""
    why: str = ""

    def predict(self, windows: Windows, arrived: NDArray[np.float64]) -> list[Prediction]:
        """The predictions of a block. Raises ProgramError when the outputs are unusable.

        arrived: monotonic seconds at which each window was complete.
        """
        outputs = self.run(windows.values)
        latency = (time.monotonic() - arrived) * 1e6
        if self.manifest.task == "classify":
            return self._classified(windows, outputs, latency)
        return self._reconstructed(windows, outputs, latency)

    def _classified(
        self, windows: Windows, outputs: dict[str, Array], latency: NDArray[np.float64]
    ) -> list[Prediction]:
        scores = _floats(outputs, "scores", (len(windows), len(self.manifest.labels)))
        labels = self.manifest.labels
        best = scores.argmax(axis=1).tolist()
        rows = zip(
            windows.start.tolist(), windows.end.tolist(), best, scores.astype(np.float64).round(4).tolist(),
            latency.round(1).tolist(), windows.repaired.tolist(), strict=True,
        )  # fmt: skip
        return [
            Prediction(
                start,
                end,
                labels[top],
                self.name,
                late,
                scores=dict(zip(labels, row, strict=True)),
                repaired=repaired,
            )
            for start, end, top, row, late, repaired in rows
        ]

    def _reconstructed(
        self, windows: Windows, outputs: dict[str, Array], latency: NDArray[np.float64]
    ) -> list[Prediction]:
        score = _floats(outputs, "score", (len(windows),))
        channel_scores = _floats(outputs, "channel_scores", (len(windows), len(self.manifest.channels)))
        threshold = self.normal.threshold if self.normal else self.manifest.threshold
        ahead = self._forecasts(outputs, len(windows))
        predictions = []
        for index in range(len(windows)):
            above = threshold is not None and float(score[index]) > threshold
            predictions.append(
                Prediction(
                    float(windows.start[index]),
                    float(windows.end[index]),
                    "anomaly" if above else "normal",
                    self.name,
                    round(float(latency[index]), 1),
                    score=float(score[index]),
                    threshold=threshold,
                    causes=self._causes(channel_scores[index]) if above else (),
                    forecast=ahead[index] if ahead else {},
                    repaired=bool(windows.repaired[index]),
                )
            )
        return predictions

    def _forecasts(self, outputs: dict[str, Array], count: int) -> list[dict[str, list[float]]]:
        """Of each window by channel; empty where the model foretells nothing."""
        if not self.manifest.horizon:
            return []
        names = self.manifest.channel_names
        values = _floats(outputs, "forecast", (count, len(names), self.manifest.horizon))
        return [dict(zip(names, rows, strict=True)) for rows in values.astype(np.float64).round(6).tolist()]

    def _causes(self, channel_scores: NDArray[np.float32]) -> tuple[Cause, ...]:
        """The channels that are furthest beyond their own normal."""
        excess = channel_scores.astype(np.float64)
        if self.normal is not None:
            excess = excess - self.normal.channel_mean - 3 * self.normal.channel_spread
        excess = np.maximum(excess, 0)
        total = float(excess.sum())
        if total <= 0:
            return ()
        order = np.argsort(excess)[::-1][:_MOST_CAUSES]
        names = self.manifest.channel_names
        return tuple(
            Cause(names[place], round(float(excess[place]) / total, 3))
            for place in order
            if excess[place] / total >= _LEAST_SHARE
        )


def verdicts(manifest: Manifest) -> tuple[str, ...]:
    """The labels that a model's predictions may have."""
    return manifest.labels if manifest.task == "classify" else ("normal", "anomaly")


def int8_model(bundle: Bundle, options: ProgramOptions, role: InferRole = "infer", why: str = "") -> Model:
    """The bundle's int8 program, tried once on a window of zeros. Raises BundleError or ProgramError.

    role: in which of the forms that the bundle has. why: that one.
    """
    program = bundle.program(role, options)
    manifest = bundle.manifest
    runtime = manifest.programs[role].runtime
    name = f"{manifest.name} {manifest.version}"
    model = Model(manifest, name, lambda x: program(x=x), runtime=runtime, why=why)
    _try(model, bundle.source)
    return model


def own_model(
    bundle: Bundle, parameters: NDArray[np.float32], normal: Normal | None, options: ProgramOptions
) -> Model:
    """The fp32 program with parameters that this device trained itself, float32 (P,)."""
    program = bundle.program("predict", options)
    manifest = bundle.manifest
    if parameters.shape != (manifest.parameter_count,):
        raise BundleError(
            f"{bundle.source}: has {manifest.parameter_count} parameters, the device's own are "
            f"{parameters.shape[0]}"
        )
    run = lambda x: program(parameters=parameters, x=x)  # noqa: E731
    name, runtime = own_name(manifest), manifest.programs["predict"].runtime
    model = Model(manifest, name, run, normal, runtime, "it learns here")
    _try(model, bundle.source)
    return model


def own_int8_model(
    bundle: Bundle, arrays: Mapping[str, Array], normal: Normal | None, options: ProgramOptions
) -> Model:
    """The int8 program with the device's own parameters. arrays: initialisers of ``infer.onnx``."""
    program = bundle.program("infer", options, arrays)
    manifest = bundle.manifest
    name, runtime = own_name(manifest, "own, int8"), manifest.programs["infer"].runtime
    model = Model(manifest, name, lambda x: program(x=x), normal, runtime, "it learns here")
    _try(model, bundle.source)
    return model


def own_name(manifest: Manifest, form: str = "own") -> str:
    """What a model with the device's own parameters is called."""
    return f"{manifest.name} {manifest.version} ({form})"


def _try(model: Model, source: str) -> None:
    """Run a model once on a window of zeros, so that a bad one is refused before it is used."""
    shape = (1, len(model.manifest.channels), model.manifest.length)
    zeros = np.zeros(1)
    windows = Windows(
        zeros, zeros, np.zeros(shape, np.float32), np.full(1, -1, np.int16), np.zeros(1, np.bool_)
    )
    try:
        model.predict(windows, zeros)
    except ProgramError as error:
        raise ProgramError(f"{source}: {error}") from error


def _floats(outputs: dict[str, Array], name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    value = outputs.get(name)
    if value is None or value.shape != shape:
        found = "nothing" if value is None else str(value.shape)
        raise ProgramError(f"the program's output {name!r} should have shape {shape}, has {found}")
    floats = value.astype(np.float32, copy=False)
    if not np.isfinite(floats).all():
        raise NotFiniteError(f"the program's output {name!r} holds NaN or infinity")
    return floats
