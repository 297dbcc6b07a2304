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

# ONNX values while a graph is traced; onnxscript has no public type for them.
Value = Any


class UnsupportedError(MarramError):
    """A module uses something that cannot be exported; the message says what to use instead."""


def convolution_backward(
    grad_output: Value, input: Value, weight: Value, bias_sizes: Sequence[int] | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], transposed: bool,
    output_padding: Sequence[int], groups: int, output_mask: Sequence[bool],
) -> tuple[Value, Value, Value]:  # fmt: skip
    """Gradients of a 1-D convolution: grad_output (n, o, l'), input (n, c, l), weight (o, c, k).

    The weight's gradient is one matrix product of the output's gradient with the unfolded input: measured
    faster in onnxruntime than a convolution with its axes swapped.
    """
    if transposed or groups != 1 or len(input.shape) != 3:
        raise UnsupportedError(
            "the gradient of this convolution is not supported: use Conv1d with groups=1 "
            f"(found {len(input.shape) - 2} dimensions, groups={groups}, transposed={transposed})"
        )
    out_channels, channels, kernel = (int(size) for size in weight.shape)
    length, out_length = int(input.shape[2]), int(grad_output.shape[2])
    step, pad, spread = stride[0], padding[0], dilation[0]
    # What is not asked for is never used; the exporter only wants some value in its place.
    grad_input = grad_weight = grad_bias = grad_output
    if output_mask[0]:
        covered = (out_length - 1) * step - 2 * pad + spread * (kernel - 1) + 1
        grad_input = op.ConvTranspose(
            grad_output, weight, strides=[step], pads=[pad, pad], dilations=[spread],
            output_padding=[length - covered],
        )  # fmt: skip
    if output_mask[1]:
        rows = op.Transpose(input, perm=[0, 2, 1])
        if pad:
            rows = op.Pad(rows, _ints([0, pad, 0, 0, pad, 0]))
        reach = (out_length - 1) * step + 1
        taps = [
            op.Slice(rows, _ints([tap * spread]), _ints([tap * spread + reach]), _ints([1]), _ints([step]))
            for tap in range(kernel)
        ]
        unfolded = op.Reshape(op.Concat(*taps, axis=2), _ints([-1, kernel * channels]))
        wanted = op.Reshape(op.Transpose(grad_output, perm=[1, 0, 2]), _ints([out_channels, -1]))
        product = op.Reshape(op.MatMul(wanted, unfolded), _ints([out_channels, kernel, channels]))
        grad_weight = op.Transpose(product, perm=[0, 2, 1])
    if output_mask[2]:
        grad_bias = op.ReduceSum(grad_output, _ints([0, 2]), keepdims=0)
    return grad_input, grad_weight, grad_bias


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
    planes = _ints([0, 0, -1])
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
    planes = op.Reshape(grad_output, _ints([-1, 1, *outputs]))
    spread = op.ConvTranspose(
        op.Mul(planes, _floats(1 / divisors[None, None])), _floats(np.ones((1, 1, *kernel_size))),
        strides=steps, pads=[*padding, *padding], output_padding=left_over,
    )  # fmt: skip
    return op.Reshape(spread, op.Shape(self))


def _floats(values: NDArray[np.float64]) -> Value:
    return op.Constant(value=onnx.numpy_helper.from_array(values.astype(np.float32)))


def _ints(values: list[int]) -> Value:
    return op.Constant(value_ints=values)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.convolution_backward.default: convolution_backward,
    torch.ops.aten.max_pool2d_with_indices_backward.default: max_pool_backward,
    torch.ops.aten.avg_pool2d_backward.default: avg_pool_backward,
}
