"""One bundle in onnxruntime and in LiteRT: time and memory as a device measures them, and exactness."""

from __future__ import annotations

import tempfile
from pathlib import Path

from marram.bundle.file import read
from marram.programs.program import ProgramOptions, load
from marram.releases.forms import FORMS, Trier
from marram_cloud.litert.choosing import BOUND
from marram_cloud.litert.quantise import difference
from marram_cloud.releases.calibration import read_calibration
from marram_cloud.workshop.build import build
from marram_cloud.workshop.litert import LITERT_TORCH

from benchmarks.report import Figure, Result, at_most

_ROOT = Path(__file__).parent.parent
_EXAMPLES = ("shoulder", "host")


def measure() -> Result:
    figures: list[Figure] = []
    if LITERT_TORCH.python is None:
        figures.append(Figure("nothing: no litert-torch is installed", "make .venv-litert"))
    else:
        for example in _EXAMPLES:
            figures += _of_one(_ROOT / "examples" / example)
    return Result(
        "Which runtime",
        "python -m benchmarks runtimes",
        "int8, one thread, batch 1: processor time a window, and memory for runtime and model, each in a "
        "child of its own, as a device chooses. Differences from fp32 on the calibration windows, in "
        "standard deviations.",
        figures,
    )


def _of_one(project: Path) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "made.marram"
        build(project, file, tflite=True)
        bundle = read(file)
        manifest = bundle.manifest
        trier = Trier(bundle, 1 << 30, 0, 120.0)
        options = ProgramOptions()
        windows = read_calibration(
            project / "calibration.npz", len(manifest.channels), manifest.length
        ).windows
        exact, parameters = load(bundle.members["predict.onnx"], "onnx"), bundle.parameters()
        figures, times, memories = [], [], []
        for role in FORMS:
            one = trier.measured(trier.candidate(bundle, file, options, role))
            if isinstance(one, str):
                raise RuntimeError(one)
            runtime = manifest.programs[role].runtime
            far = difference(
                lambda x: exact(parameters=parameters, x=x), bundle.program(role, options), windows
            )
            times.append(one.cpu_us)
            memories.append(one.memory / 2**20)
            told = f"{one.cpu_us:.0f} us, {one.memory / 2**20:.0f} MiB"
            figures.append(Figure(f"{manifest.name} in {runtime}", told))
            figures.append(at_most(f"{manifest.name} in {runtime}: difference from fp32", far, BOUND))
        part = f"{times[1] / times[0]:.2f} of onnxruntime's"
        figures.append(Figure(f"{manifest.name}: time in LiteRT", part))
        figures.append(
            Figure(f"{manifest.name}: memory in LiteRT", f"{memories[1] / memories[0]:.2f} of onnxruntime's")
        )
        return figures
