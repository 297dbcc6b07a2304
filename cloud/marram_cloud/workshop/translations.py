"""ONNX forms of the backward operators that PyTorch's exporter lacks, in opset 18.

Everything else that a gradient needs decomposes into plain operators by PyTorch itself
(``torch._decomp.core_aten_decompositions``). Each translation is checked against PyTorch over random shapes.
"""

from __future__ import annotations

import math
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

from marram_cloud.workshop.recurrent import gru_back_to_onnx, gru_to_onnx

# ONNX values while a graph is traced; onnxscript has no public type for them.
Value = Any


class UnsupportedError(MarramError):
    """A module uses something that cannot be exported; the message says what to use instead."""


def convolution_backward(
    grad_output: Value, input: Value, weight: Value, bias_sizes: Sequence[int] | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], transposed: bool,
    output_padding: Sequence[int], groups: int, output_mask: Sequence[bool],
) -> tuple[Value, Value, Value]:  # fmt: skip
    """Gradients of a convolution, of its transpose too, over any number of axes and with groups.

    grad_output (n, o, ...), input (n, c, ...), weight (o, c / groups, ...); of a transposed one the weight is
    (c, o / groups, ...).
    """
    axes = len(input.shape) - 2
    steps, pads, spreads = (_each(one, axes) for one in (stride, padding, dilation))
    options = {"strides": steps, "pads": [*pads, *pads], "dilations": spreads, "group": groups}
    # What is not asked for is never used; the exporter only wants some value in its place.
    grad_input = grad_weight = grad_bias = grad_output
    if output_mask[0] and transposed:
        grad_input = op.Conv(grad_output, weight, **options)
    elif output_mask[0]:
        sides = zip(_sides(input), _sides(grad_output), _sides(weight), steps, pads, spreads, strict=True)
        left_over = [
            size - ((out - 1) * step - 2 * pad + spread * (kernel - 1) + 1)
            for size, out, kernel, step, pad, spread in sides
        ]
        grad_input = op.ConvTranspose(grad_output, weight, **options, output_padding=left_over)
    if output_mask[1]:
        # A transposed convolution is the other one's gradient: input and output change places.
        seen, made = (grad_output, input) if transposed else (input, grad_output)
        grad_weight = _weight_gradient(seen, made, _sides(weight), steps, pads, spreads, groups)
    if output_mask[2]:
        grad_bias = op.ReduceSum(grad_output, _ints([0, *range(2, 2 + axes)]), keepdims=0)
    return grad_input, grad_weight, grad_bias


def _weight_gradient(
    seen: Value, made: Value, kernel: list[int], steps: list[int], pads: list[int], spreads: list[int],
    groups: int,
) -> Value:  # fmt: skip
    """(o, c / groups, kernel): for each place of the kernel, what it saw times the gradient of what it made.

    seen: (n, c, ...). made: the gradient of the output, (n, o, ...). One matrix product of the gradient with
    the unfolded input: measured faster in onnxruntime than a convolution with its axes swapped.
    """
    axes = len(kernel)
    inside, outside = int(seen.shape[1]), int(made.shape[1])
    outputs, places = _sides(made), math.prod(kernel)
    spatial = list(range(1, 1 + axes))
    rows = op.Transpose(seen, perm=[0, *range(2, 2 + axes), 1])
    if any(pads):
        rows = op.Pad(rows, _ints([0, *pads, 0, 0, *pads, 0]))
    taps = []
    for place in np.ndindex(*kernel):
        begins = [tap * spread for tap, spread in zip(place, spreads, strict=True)]
        ends = [begin + (out - 1) * step + 1 for begin, out, step in zip(begins, outputs, steps, strict=True)]
        taps.append(op.Slice(rows, _ints(begins), _ints(ends), _ints(spatial), _ints(steps)))
    if groups == 1:
        unfolded = op.Reshape(op.Concat(*taps, axis=1 + axes), _ints([-1, places * inside]))
        wanted = op.Reshape(op.Transpose(made, perm=[1, 0, *range(2, 2 + axes)]), _ints([outside, -1]))
        product = op.Reshape(op.MatMul(wanted, unfolded), _ints([outside, places, inside]))
        return op.Reshape(op.Transpose(product, perm=[0, 2, 1]), _ints([outside, inside, *kernel]))
    each, those = inside // groups, outside // groups
    wanted = op.Transpose(op.Reshape(made, _ints([0, groups, those, math.prod(outputs)])), perm=[1, 2, 0, 3])
    wanted = op.Reshape(wanted, _ints([groups, those, -1]))
    columns = [
        op.Reshape(
            op.Transpose(op.Reshape(tap, _ints([-1, groups, each])), perm=[1, 0, 2]),
            _ints([groups, -1, each]),
        )
        for tap in taps
    ]
    product = op.MatMul(wanted, op.Concat(*columns, axis=2))
    apart = op.Reshape(product, _ints([groups, those, places, each]))
    return op.Reshape(op.Transpose(apart, perm=[0, 1, 3, 2]), _ints([outside, each, *kernel]))


def _sides(value: Value) -> list[int]:
    """The spatial part of a shape (batch, channels, ...)."""
    return [int(size) for size in value.shape[2:]]


def _each(values: Sequence[int], axes: int) -> list[int]:
    return list(values) if len(values) == axes else list(values) * axes


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


def decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's decompositions into plain operators, and what we put in their place."""
    return {**core_aten_decompositions(), torch.ops.aten.constant_pad_nd.default: constant_pad}


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.convolution_backward.default: convolution_backward,
    torch.ops.aten.max_pool2d_with_indices_backward.default: max_pool_backward,
    torch.ops.aten.avg_pool2d_backward.default: avg_pool_backward,
    torch.ops.marram.gru.default: gru_to_onnx,
    torch.ops.marram.gru_back.default: gru_back_to_onnx,
}
