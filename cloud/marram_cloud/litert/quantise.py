"""int8 for LiteRT, by ai-edge-quantizer; no torch.

Only the heavy operators are quantised: the normalisation in front and what is between stays in float, as in
``infer.onnx``. Measured on the shoulder model, whole-integer files were slower and less accurate.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Literal

import numpy as np
from marram.errors import ProgramError
from marram.programs.program import Array, Program, load
from numpy.typing import NDArray

from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.quiet import quiet
from marram_cloud.litert import flatfile

Method = Literal["static", "dynamic"]
METHODS: tuple[Method, ...] = ("static", "dynamic")

BOUND = 0.1
"""Most that an int8 form may differ from fp32: mean absolute difference, in standard deviations of fp32."""

_HEAVY = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED")
_HELD_OUT = 4  # every fourth window judges
_MOST = 256
_TINY = 1e-12

Windows = NDArray[np.float32]
Outputs = Callable[..., Mapping[str, Array]]


def quantise(program: bytes, windows: Windows, method: Method) -> bytes:
    """The int8 program. program: float TFLite. windows: float32 (n, channels, length), for its ranges.

    static: weights by channel and activations by their ranges on the windows. dynamic: the same kernels,
    with each activation's range taken anew at each call.
    """
    from ai_edge_quantizer import qtyping, quantizer

    with quiet(), _no_bars():
        made = quantizer.Quantizer(bytearray(program))
        for name in _HEAVY:
            operator = qtyping.TFLOperationName(name)
            add = made.add_dynamic_config if method == "dynamic" else made.add_static_config
            bits = ("num_bits",) if method == "dynamic" else ("activation_num_bits", "weight_num_bits")
            add(regex=".*", operation_name=operator, **dict.fromkeys(bits, 8))
        if method == "dynamic":
            return bytes(made.quantize().quantized_model)
        ranges = made.calibrate({_signature(program): [{"x": window[None]} for window in windows[:_MOST]]})
        return bytes(made.quantize(ranges).quantized_model)


def closest(program: bytes, windows: Windows) -> tuple[bytes, Method, float]:
    """(the int8 program that is closest to float on windows that it was not made with, how, how far).

    Raises CompressionError when it is further than ``BOUND``.
    """
    judging = windows[::_HELD_OUT]
    making = np.delete(windows, np.s_[::_HELD_OUT], axis=0) if len(windows) >= _HELD_OUT else windows
    exact = load(program, "tflite")
    made = {method: quantise(program, making, method) for method in METHODS}
    far = {method: _far(exact, content, judging) for method, content in made.items()}
    best = min(METHODS, key=lambda method: far[method])
    if not far[best] <= BOUND:
        raise CompressionError(
            f"int8 for LiteRT differs from fp32 by {far[best]:.2f} standard deviations, more than the "
            f"{BOUND} allowed; it is left out"
        )
    return made[best], best, far[best]


def _far(exact: Program, content: bytes, windows: Windows) -> float:
    try:
        return difference(exact, load(content, "tflite"), windows)
    except ProgramError:  # not every kernel has a form for each way
        return math.inf


def difference(exact: Outputs, coarse: Outputs, windows: Windows) -> float:
    """Mean absolute difference in standard deviations of the exact outputs; of several outputs the worst."""
    pairs = zip(exact(x=windows).values(), coarse(x=windows).values(), strict=True)
    return max(
        float(
            np.abs(want.astype(np.float64) - found.astype(np.float64)).mean() / max(float(want.std()), _TINY)
        )
        for want, found in pairs
    )


def _signature(program: bytes) -> str:
    name: bytes = flatfile.read(program).signatureDefs[0].signatureKey
    return name.decode()


@contextmanager
def _no_bars() -> Iterator[None]:
    with redirect_stderr(io.StringIO()):
        yield
