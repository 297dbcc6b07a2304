"""ONNX forms of the backward operators that PyTorch's exporter lacks, in opset 18.

Everything else that a gradient needs decomposes into plain operators by PyTorch itself
(``torch._decomp.core_aten_decompositions``). Each translation is checked against PyTorch over random shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from marram.errors import MarramError
from numpy.typing import NDArray
from onnxscript import opset18 as op
from torch import Tensor
from torch._decomp import core_aten_decompositions

from marram_cloud.workshop.convolution_sizes import Value, ints
from marram_cloud.workshop.convolutions import convolution, convolution_backward
from marram_cloud.workshop.gru import gru_back_to_onnx, gru_to_onnx
from marram_cloud.workshop.lstm import lstm_back_to_onnx, lstm_cells_to_onnx, lstm_to_onnx
from marram_cloud.workshop.normalise import batch_norm_to_onnx

# Any number that is not denormal comes to 1 and more.
_STEEP = 1e38


class UnsupportedError(MarramError):
    """A module uses something that cannot be exported; the message says what to use instead."""


def max_pool_backward(
    grad_output: Value, self: Value, kernel_size: Sequence[int], stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], ceil_mode: bool, indices: Value,
) -> Value:  # fmt: skip
    """Gradient of a max pooling: each output's gradient is added where its maximum stood.

    indices are within one (height, width) plane, as PyTorch gives them. Raises UnsupportedError for a pooling
    that looks at padding alone somewhere: there its maximum stands nowhere (PyTorch's own gradient then
    writes outside its memory).
    """
    steps = list(stride) or list(kernel_size)
    sides = zip(self.shape[-2:], indices.shape[-2:], kernel_size, steps, padding, dilation, strict=True)
    for size, output, kernel, step, pad, apart in sides:
        looked_at = np.arange(int(output))[:, None] * step - pad + np.arange(kernel) * apart
        if not ((looked_at >= 0) & (looked_at < int(size))).any(axis=1).all():
            raise UnsupportedError(
                "the gradient of this max pooling is not supported, because some of its outputs see "
                "nothing but padding: make padding or dilation smaller"
            )
    shape = op.Shape(self)
    planes = ints([0, 0, -1])
    zeros = op.Reshape(op.Expand(op.Constant(value_float=0.0), shape), planes)
    places, values = op.Reshape(indices, planes), op.Reshape(grad_output, planes)
    return op.Reshape(op.ScatterElements(zeros, places, values, axis=2, reduction="add"), shape)


def avg_pool_backward(
    grad_output: Value, self: Value, kernel_size: Sequence[int], stride: Sequence[int],
    padding: Sequence[int], ceil_mode: bool, count_include_pad: bool, divisor_override: int | None,
) -> Value:  # fmt: skip
    """Gradient of an average pooling: each output's gradient, spread evenly over what it was the mean of."""
    if ceil_mode:
        raise UnsupportedError(
            "the gradient of this pooling is not supported: use AvgPool1d without ceil_mode"
        )
    steps = list(stride) or list(kernel_size)
    sizes = [int(size) for size in self.shape[-2:]]
    outputs = [int(size) for size in grad_output.shape[-2:]]
    counts, left_over = [], []
    for size, output, kernel, step, pad in zip(sizes, outputs, kernel_size, steps, padding, strict=True):
        begins = np.arange(output) * step - pad
        inside = np.minimum(begins + kernel, size) - np.maximum(begins, 0)
        counts.append(np.full(output, kernel) if count_include_pad else inside)
        left_over.append(size - ((output - 1) * step - 2 * pad + kernel))
    divisors = np.outer(*counts) if divisor_override is None else np.full(outputs, divisor_override)
    # Planes one by one, so that one kernel of ones serves them all.
    planes = op.Reshape(grad_output, ints([-1, 1, *outputs]))
    spread = op.ConvTranspose(
        op.Mul(planes, _floats(1 / divisors[None, None])), _floats(np.ones((1, 1, *kernel_size))),
        strides=steps, pads=[*padding, *padding], output_padding=left_over,
    )  # fmt: skip
    return op.Reshape(spread, op.Shape(self))


def threshold_backward(grad_output: Value, self: Value, threshold: float) -> Value:
    """Of ReLU: the gradient times 1 or 0, which HardSigmoid gives in one pass, but for denormal numbers;
    onnxruntime's Where takes several times as long."""
    above = op.Sub(self, op.Constant(value_float=threshold)) if threshold else self
    return op.Mul(grad_output, op.HardSigmoid(above, alpha=_STEEP, beta=0.0))


def _floats(values: NDArray[np.float64]) -> Value:
    return op.Constant(value=onnx.numpy_helper.from_array(values.astype(np.float32)))


def constant_pad(input: Tensor, pad: Sequence[int], value: float = 0.0) -> Tensor:
    """Padding by concatenation, negative padding by slices: PyTorch's own form wants a fixed batch."""
    for number in range(len(pad) // 2):
        axis = input.ndim - 1 - number
        before, after = pad[2 * number], pad[2 * number + 1]
        size = input.shape[axis]
        if before < 0 or after < 0:
            input = input.narrow(axis, max(-before, 0), size - max(-before, 0) - max(-after, 0))
        sides = [_filled(input, axis, count, value) for count in (before, after)]
        if before > 0 or after > 0:
            input = torch.cat([side for side in (sides[0], input, sides[1]) if side is not None], dim=axis)
    return input


def _filled(like: Tensor, axis: int, count: int, value: float) -> Tensor | None:
    shape = list(like.shape)
    shape[axis] = count
    return like.new_full(shape, value) if count > 0 else None


def power(input: Tensor, exponent: float) -> Any:  # noqa: ANN401
    """Squares as products: onnxruntime's Pow takes some ten times as long."""
    if exponent == 1:
        return input.clone()
    if exponent == 2:
        return input * input
    return torch.sqrt(input) if exponent == 0.5 else NotImplemented


def unfold_backward(grad: Tensor, sizes: Sequence[int], dim: int, size: int, step: int) -> Tensor:
    """Of ``Tensor.unfold``: each value's gradients, one for each window that holds it, added up."""
    windows = grad.movedim(-1, dim + 1)  # (..., windows, size, ...)
    places = (torch.arange(windows.shape[dim])[:, None] * step + torch.arange(size)).flatten()
    return grad.new_zeros(sizes).index_add(dim, places, windows.flatten(dim, dim + 1))


def decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's decompositions into plain operators, and what we put in their place."""
    aten = torch.ops.aten
    return {
        **{key: form for key, form in core_aten_decompositions().items() if key not in TRANSLATIONS},
        aten.constant_pad_nd.default: constant_pad,
        aten.pow.Tensor_Scalar: power,
        aten.unfold_backward.default: unfold_backward,
    }


TRAINING: dict[Any, Callable[..., Any]] = {torch.ops.aten.convolution.default: convolution}
"""Of operators that have a form of their own where nothing is to be quantised."""

TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.convolution_backward.default: convolution_backward,
    torch.ops.aten.max_pool2d_with_indices_backward.default: max_pool_backward,
    torch.ops.aten.avg_pool2d_backward.default: avg_pool_backward,
    torch.ops.aten.threshold_backward.default: threshold_backward,
    torch.ops.marram.batch_norm.default: batch_norm_to_onnx,
    torch.ops.marram.gru.default: gru_to_onnx,
    torch.ops.marram.gru_back.default: gru_back_to_onnx,
    torch.ops.marram.lstm.default: lstm_to_onnx,
    torch.ops.marram.lstm_cells.default: lstm_cells_to_onnx,
    torch.ops.marram.lstm_back.default: lstm_back_to_onnx,
}
