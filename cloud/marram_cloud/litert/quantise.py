"""int8 for LiteRT, by ai-edge-quantizer; no torch.

How much of a program is int8, and from where the ranges of its activations are, is measured: which way is the
fastest differs by tens of times from model to model (docs/decisions/litert-by-measuring.md).
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, Literal, get_args

import numpy as np
from marram.programs.program import Array
from numpy.typing import NDArray

from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.quantise import Ranges
from marram_cloud.compression.quiet import quiet
from marram_cloud.litert import flatfile
from marram_cloud.litert.flatfile import Operator

Method = Literal["dynamic", "static", "integer", "full-integer"]
"""What is int8. dynamic: the heavy operators, with each activation's range taken anew at each call. static:
the same, with ranges that were measured. integer: every operator from the first heavy one to the last, and
what only moves values in front of it; so the normalisation there and the scores behind stay in float.
full-integer: all, and what goes in and out, for a device whose accelerator knows nothing else.
"""
METHODS: tuple[Method, ...] = get_args(Method)
Wanted = Literal["auto", Method]
"""auto: what measures best."""

_HEAVY = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
_MOVING = ("RESHAPE", "TRANSPOSE", "PAD")
_NAMES = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}  # that the quantiser calls otherwise
_BITS = {"activation_num_bits": 8, "weight_num_bits": 8}
_TINY = 1e-12

Windows = NDArray[np.float32]
Outputs = Callable[..., Mapping[str, Array]]


def quantise(program: bytes, method: Method, ranges: Ranges) -> bytes:
    """The int8 program. program: float TFLite. ranges: by the names of its tensors; dynamic needs none.

    Weights are int8 per channel. What the quantiser has no int8 for stays in float. Raises CompressionError
    when a range is missing.
    """
    from ai_edge_quantizer import qtyping, quantizer

    model = flatfile.read(program)
    chosen = _chosen(flatfile.operators(model), method)
    with quiet(), _without_bars_and_warnings():
        made = quantizer.Quantizer(bytearray(program))
        if method == "full-integer":
            made.add_static_config(regex=".*", operation_name=qtyping.TFLOperationName.ALL_SUPPORTED, **_BITS)
        for name in dict.fromkeys(one.name for one in chosen if method != "full-integer"):
            _add(made, name, [one for one in chosen if one.name == name], method)
        if not made.get_quantization_recipe():
            raise CompressionError("the model has no operator that has an int8 form")
        if method == "dynamic":
            return bytes(made.quantize().quantized_model)
        return bytes(made.quantize(_statistics(model, chosen, ranges)).quantized_model)


def in_float(program: bytes) -> tuple[str, ...]:
    """Names of the operators that calculate in float, each once."""
    operators = flatfile.operators(flatfile.read(program))
    border = ("QUANTIZE", "DEQUANTIZE")
    return tuple(sorted({one.name for one in operators if one.tensors and one.name not in border}))


def difference(exact: Outputs, coarse: Outputs, windows: Windows) -> float:
    """Mean absolute difference in standard deviations of the exact outputs; of several outputs the worst."""
    pairs = zip(exact(x=windows).values(), coarse(x=windows).values(), strict=True)
    return max(
        float(
            np.abs(want.astype(np.float64) - found.astype(np.float64)).mean() / max(float(want.std()), _TINY)
        )
        for want, found in pairs
    )


def _chosen(operators: Sequence[Operator], method: Method) -> Sequence[Operator]:
    heavy = [place for place, one in enumerate(operators) if one.name in _HEAVY]
    if method == "full-integer":
        return operators
    if method == "integer" and heavy:
        start = heavy[0]
        while start and operators[start - 1].name in _MOVING:
            start -= 1
        return operators[start : heavy[-1] + 1]
    return [operators[place] for place in heavy]


def _add(made: Any, name: str, operators: Sequence[Operator], method: Method) -> None:  # noqa: ANN401
    """Ask for int8 of these operators of one name. One that the quantiser does not know stays in float."""
    from ai_edge_quantizer import qtyping

    outputs = "|".join(re.escape(output) for one in operators for output in one.outputs)
    about = {"regex": f"(^|;)({outputs})(;|$)"}
    try:
        operation = qtyping.TFLOperationName(_NAMES.get(name, name))
        if method == "dynamic":
            made.add_dynamic_config(operation_name=operation, num_bits=8, **about)
        else:
            made.add_static_config(operation_name=operation, **_BITS, **about)
    except ValueError:
        return


def _statistics(
    model: Any,  # noqa: ANN401
    operators: Sequence[Operator],
    ranges: Ranges,
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """As the quantiser's own calibration gives them."""
    needed = {name for one in operators for name in one.tensors}
    lacking = sorted(needed - ranges.keys())
    if lacking:
        raise CompressionError(
            f"the ranges of {len(lacking)} of {len(needed)} tensors are not known ({lacking[0]}, ...): only "
            "calibration windows show them"
        )
    found = {}
    for tensor in model.subgraphs[0].tensors:
        name = tensor.name.decode()
        if name in needed:
            ones = (1,) * len(flatfile.shape(tensor))
            low, high = ranges[name]
            found[name] = {"min": np.full(ones, low, np.float32), "max": np.full(ones, high, np.float32)}
    return found


@contextmanager
def _without_bars_and_warnings() -> Iterator[None]:
    with redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
