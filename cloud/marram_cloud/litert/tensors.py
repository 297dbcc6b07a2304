"""What the tensors of a float TFLite program hold while it runs: their ranges, and which of them are the
activations of predict.onnx.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from marram.programs.program import load
from numpy.typing import NDArray

from marram_cloud.compression.folding import fold
from marram_cloud.compression.quantise import Ranges
from marram_cloud.litert import flatfile

Floats = NDArray[np.float32]

_PROOFS = 3  # windows on which two tensors must agree
_CLOSE = 1e-4


def measured(program: bytes, windows: Floats) -> dict[str, tuple[float, float]]:
    """Least and largest value of each float tensor on the windows, by its name.

    windows: float32 (n, channels, length). ai-edge-quantizer's own calibration takes a moving average of
    each window's range and cuts off what only few windows reach; on the shoulder model that put its static
    form 0.10 standard deviations from fp32, the whole range 0.02.
    """
    found: dict[str, tuple[float, float]] = {}
    for values in _watched(program, windows):
        for name, value in values.items():
            low, high = float(value.min()), float(value.max())
            before = found.get(name, (low, high))
            found[name] = min(low, before[0]), max(high, before[1])
    return found


def noise(shape: tuple[int, int]) -> Floats:
    """Windows where there are no real ones: float32 (n, channels, length)."""
    return np.random.default_rng(0).normal(size=(_PROOFS, *shape)).astype(np.float32)


def renamed(
    program: bytes, predict: bytes, parameters: Floats, ranges: Ranges, shape: tuple[int, int]
) -> dict[str, tuple[float, float]]:
    """The ranges of predict.onnx's activations, by the names of the same tensors of the TFLite program.

    A converter gives other names and another order of axes, so a tensor is known by its values: the same on
    each of some windows of noise. shape: of a window.
    """
    windows = noise(shape)
    exact = list(_activations(predict, parameters, ranges, windows))
    same: dict[str, set[str]] = {}
    for number, values in enumerate(_watched(program, windows)):
        for name, value in values.items():
            alike = {other for other, one in exact[number].items() if _equal(np.sort(value, axis=None), one)}
            same[name] = alike & same[name] if number else alike
    return {name: ranges[min(alike)] for name, alike in same.items() if alike}


def _watched(program: bytes, windows: Floats) -> Iterator[Mapping[str, Floats]]:
    """The float tensors that are no constants, for each window. The values hold until the next one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this takes memory
        interpreter = Interpreter(
            model_content=program,
            experimental_preserve_all_tensors=True,
            # A delegate keeps what is between its operators to itself.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    made = flatfile.made(flatfile.read(program))
    watched = [(one["name"], one["index"]) for one in interpreter.get_tensor_details() if one["name"] in made]
    for window in windows:
        interpreter.set_tensor(entry["index"], window[np.newaxis])
        interpreter.invoke()
        yield {name: interpreter.get_tensor(index) for name, index in watched}


def _activations(
    predict: bytes, parameters: Floats, ranges: Ranges, windows: Floats
) -> Iterator[Mapping[str, Floats]]:
    """The activations that have ranges, sorted, for each window."""
    folded = fold(predict, parameters)
    computed = {name for node in folded.graph.node for name in node.output}
    names = [name for name in ranges if name in computed]
    before = {one.name for one in folded.graph.output}
    folded.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in before)
    run = load(folded.SerializeToString(), "onnx")
    for window in windows:
        found = {"x": window, **run(x=window[np.newaxis])}
        yield {name: np.sort(found[name], axis=None) for name in ranges if name in found}


def _equal(found: Floats, wanted: Floats) -> bool:
    return found.size == wanted.size and bool(
        np.allclose(found, wanted, rtol=_CLOSE, atol=_CLOSE * float(np.abs(wanted).max(initial=0.0)))
    )
