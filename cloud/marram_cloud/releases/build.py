"""From versions of the parameters to the file of a release: an int8 bundle that is still to be signed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from marram.bundle.file import Bundle, parse
from numpy.typing import NDArray

from marram_cloud.ledger.ledger import Ledger
from marram_cloud.releases.calibration import Calibration
from marram_cloud.releases.choose import Evaluated, Stretch, best, stretch, summarise
from marram_cloud.releases.fleet_ranges import FromFleet
from marram_cloud.releases.rebuild import rebuild
from marram_cloud.releases.repository.layout import Layout
from marram_cloud.releases.repository.targets import next_sequence


@dataclass(frozen=True)
class Comparison:
    """A classifier before and after int8 on the calibration windows.

    agreement: part of the windows to which both give the same label. fp32, int8: part that they label right;
    None where the windows have no labels.
    """

    agreement: float
    fp32: float | None
    int8: float | None


@dataclass(frozen=True)
class Built:
    """content: the bundle's bytes. comparison: None for other tasks than classify, and without windows.

    source: of the ranges of int8; "" for a forest, which has none. tflite: what became of the form for
    LiteRT.
    """

    content: bytes
    version: str
    comparison: Comparison | None
    source: str
    tflite: str


def build(
    ledger: Ledger,
    bundle: Bundle,
    chosen: Stretch,
    calibration: Calibration | None,
    fleet: FromFleet,
    version: str,
) -> Built:
    """The mean of the chosen versions, quantised, in a bundle. Raises LedgerError or CalibrationError."""
    metrics = {"devices": float(chosen.devices), "averaged_versions": float(len(chosen.versions))}
    if chosen.devices:
        metrics["loss_fp32_devices"] = chosen.loss
    if chosen.accuracy is not None:
        metrics["accuracy_fp32_devices"] = chosen.accuracy
    vectors = [ledger.parameters(one).astype(np.float64) for one in chosen.versions]
    parameters = np.mean(vectors, axis=0).astype(np.float32)
    measured = fleet.measure(ledger, bundle, chosen.versions, parameters, calibration)
    windows, labels = (None, None) if calibration is None else (calibration.windows, calibration.labels)
    rebuilt = rebuild(bundle, parameters, measured.ranges, windows, version, metrics, labels)
    compared = None
    if bundle.manifest.task == "classify" and calibration is not None:
        compared = _compare(parse(rebuilt.content), calibration)
    return Built(rebuilt.content, version, compared, measured.source, rebuilt.tflite)


def choose_parameters(ledger: Ledger, version: int | None, minimum: int, average: int) -> Stretch:
    """The version asked for, or the best stretch. Raises ChoiceError."""
    evaluations = ledger.evaluations()
    if version is None:
        return best(evaluations, ledger.kept_versions(), minimum, average)
    metrics = [one for _, one in evaluations.get(version, ())]
    return stretch([summarise(version, metrics) or Evaluated(version, 0, 0, 0.0, None)])


def next_version(layout: Layout, model: str, chosen: Stretch) -> str:
    """``<number of the release>+r<version of the newest parameters>``."""
    role = layout.load_staged().get(model) or layout.load().roles.get(model)
    number = next_sequence(role.signed) if role is not None else 1
    return f"{number}+r{chosen.versions[-1]}"


def as_text(model: str, chosen: Stretch, built: Built, output: Path) -> str:
    """What was built, for people."""
    first, last = chosen.versions[0], chosen.versions[-1]
    versions = f"{first} to {last}" if first != last else f"{last}"
    lines = [f"{model} {built.version}: {len(built.content)} bytes, parameters {versions}: {output}"]
    if chosen.accuracy is not None:
        before = ", before int8" if built.source else ""
        lines.append(f"accuracy {chosen.accuracy:.3f} on the devices' own windows{before}")
    compared = built.comparison
    if not built.source:
        lines.append("its trees run in float32: there is nothing to quantise")
        if compared is not None and compared.fp32 is not None:
            lines.append(f"accuracy on the calibration windows {compared.fp32:.3f}")
        return "\n".join(lines)
    lines += [f"int8 rests on {built.source}", f"infer.tflite: {built.tflite}"]
    if compared is not None:
        lines.append(
            f"int8 gives {compared.agreement:.1%} of the calibration windows the label that fp32 gives"
        )
        if compared.fp32 is not None:
            lines.append(f"accuracy on them {compared.fp32:.3f} before int8, {compared.int8:.3f} after")
    return "\n".join(lines)


def _compare(bundle: Bundle, calibration: Calibration) -> Comparison:
    def labels(name: Literal["predict", "infer"], **more: NDArray[np.float32]) -> NDArray[np.intp]:
        outputs = bundle.program(name)(x=calibration.windows, **more)
        found: NDArray[np.intp] = outputs["scores"].argmax(axis=1)
        return found

    fp32, int8 = labels("predict", parameters=bundle.parameters()), labels("infer")
    truth = calibration.labels

    def right(found: NDArray[np.intp]) -> float | None:
        return None if truth is None else float((found == truth).mean())

    return Comparison(float((fp32 == int8).mean()), right(fp32), right(int8))
