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

from marram_cloud.workshop.gru import gru_back_to_onnx, gru_to_onnx
from marram_cloud.workshop.lstm import lstm_back_to_onnx, lstm_cells_to_onnx, lstm_to_onnx

# ONNX values while a graph is traced; onnxscript has no public type for them.
Value = Any


# Where a Slice that goes backwards ends, so that it takes the first element too.
_BEGINNING = -(2**31)


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
    elif output_mask[0] and _as_convolution(_sides(weight), steps, pads, spreads):
        grad_input = _input_gradient(grad_output, weight, pads, spreads, groups)
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


def _as_convolution(kernel: list[int], steps: list[int], pads: list[int], spreads: list[int]) -> bool:
    """Whether the gradient of a convolution's input is a convolution too."""
    sides = zip(kernel, steps, pads, spreads, strict=True)
    return all(step == 1 and pad <= spread * (size - 1) for size, step, pad, spread in sides)


def _input_gradient(made: Value, weight: Value, pads: list[int], spreads: list[int], groups: int) -> Value:
    """By the turned kernel: onnxruntime's Conv is faster than its ConvTranspose."""
    kernel = _sides(weight)
    axes, inside, outside = len(kernel), int(weight.shape[1]), int(weight.shape[0]) // groups
    apart = op.Reshape(weight, _ints([groups, outside, inside, *kernel]))
    swapped = op.Transpose(apart, perm=[0, 2, 1, *range(3, 3 + axes)])
    turned = op.Reshape(swapped, _ints([groups * inside, outside, *kernel]))
    long = [axis for axis, size in enumerate(kernel, start=2) if size > 1]
    if long:
        many = len(long)
        turned = op.Slice(
            turned, _ints([-1] * many), _ints([_BEGINNING] * many), _ints(long), _ints([-1] * many)
        )
    sides = [spread * (size - 1) - pad for size, pad, spread in zip(kernel, pads, spreads, strict=True)]
    return op.Conv(made, turned, pads=[*sides, *sides], dilations=spreads, group=groups)


def _weight_gradient(
    seen: Value, made: Value, kernel: list[int], steps: list[int], pads: list[int], spreads: list[int],
    groups: int,
) -> Value:  # fmt: skip
    """(o, c / groups, kernel): for each place of the kernel, what it saw times the gradient of what it made.

    seen: (n, c, ...). made: the gradient of the output, (n, o, ...). One product of matrices a group, of the
    gradient with the unfolded input, whose axes are innermost, so that unfolding copies long runs: measured
    faster in onnxruntime than a convolution with its axes swapped, and than unfolding channels innermost.
    """
    axes = len(kernel)
    inside, outside = int(seen.shape[1]) // groups, int(made.shape[1]) // groups
    outputs, places = _sides(made), math.prod(kernel)
    spatial = list(range(2, 2 + axes))
    swapped = [1, 0, *spatial]
    rows = op.Transpose(seen, perm=swapped)
    if any(pads):
        rows = op.Pad(rows, _ints([0, 0, *pads, 0, 0, *pads]))
    taps = []
    for place in np.ndindex(*kernel):
        begins = [tap * spread for tap, spread in zip(place, spreads, strict=True)]
        ends = [begin + (out - 1) * step + 1 for begin, out, step in zip(begins, outputs, steps, strict=True)]
        whole = places == 1 and not any(pads) and all(step == 1 for step in steps)
        tap = rows if whole else op.Slice(rows, _ints(begins), _ints(ends), _ints(spatial), _ints(steps))
        taps.append(op.Reshape(tap, _ints([groups, inside, -1])))
    unfolded = taps[0] if places == 1 else op.Concat(*taps, axis=1)
    wanted = op.Reshape(op.Transpose(made, perm=swapped), _ints([groups, outside, -1]))
    # The smaller matrix is the one that the product has to turn.
    if groups == 1:
        product = op.MatMul(unfolded, op.Transpose(wanted, perm=[0, 2, 1]))
        apart = op.Transpose(op.Reshape(product, _ints([places, inside, outside])), perm=[2, 1, 0])
    else:
        product = op.MatMul(wanted, op.Transpose(unfolded, perm=[0, 2, 1]))
        apart = op.Transpose(op.Reshape(product, _ints([groups * outside, places, inside])), perm=[0, 2, 1])
    return op.Reshape(apart, _ints([groups * outside, inside, *kernel]))


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


def threshold_backward(grad_output: Tensor, self: Tensor, threshold: float) -> Tensor:
    """Of ReLU. A product: onnxruntime's Where takes several times as long."""
    return grad_output * (self > threshold).to(grad_output.dtype)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's decompositions into plain operators, and what we put in their place."""
    aten = torch.ops.aten
    return {
        **core_aten_decompositions(),
        aten.constant_pad_nd.default: constant_pad,
        aten.pow.Tensor_Scalar: power,
        aten.threshold_backward.default: threshold_backward,
        aten.unfold_backward.default: unfold_backward,
    }


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.convolution_backward.default: convolution_backward,
    torch.ops.aten.max_pool2d_with_indices_backward.default: max_pool_backward,
    torch.ops.aten.avg_pool2d_backward.default: avg_pool_backward,
    torch.ops.marram.gru.default: gru_to_onnx,
    torch.ops.marram.gru_back.default: gru_back_to_onnx,
    torch.ops.marram.lstm.default: lstm_to_onnx,
    torch.ops.marram.lstm_cells.default: lstm_cells_to_onnx,
    torch.ops.marram.lstm_back.default: lstm_back_to_onnx,
}
