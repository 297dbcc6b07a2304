"""ONNX forms of convolutions and of their gradients, in opset 18, as fast in onnxruntime as they get.

Small planes are computed with the batch as the innermost axis (``workshop/innermost.py``), where a
convolution copies runs of the batch's length, not of a row's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnxscript import opset18 as op

from marram_cloud.workshop.innermost import from_innermost, to_innermost

# ONNX values while a graph is traced; onnxscript has no public type for them.
Value = Any

# Where a Slice that goes backwards ends, so that it takes the first element too.
_BEGINNING = -(2**31)
# Planes up to this large are faster with the batch innermost; measured with batches of 16.
_SMALL = 256


@dataclass(frozen=True)
class _Sizes:
    """Of one convolution along each axis; channels are those of the whole of it."""

    inside: int
    outside: int
    groups: int
    inputs: list[int]
    outputs: list[int]
    kernel: list[int]
    steps: list[int]
    pads: list[int]
    spreads: list[int]

    @property
    def depthwise(self) -> bool:
        return self.groups == self.inside == self.outside > 1

    @property
    def point(self) -> bool:
        """Whether each place of the output sees one place of the input, in all of its channels."""
        return math.prod(self.kernel) == 1 and not any(self.pads) and self.groups == 1

    @property
    def single(self) -> bool:
        """Whether all steps are 1."""
        return all(step == 1 for step in self.steps)

    @property
    def innermost(self) -> bool:
        """Whether it is faster with the batch innermost."""
        return (
            len(self.inputs) == 2
            and (self.groups == 1 or self.depthwise)
            and math.prod(self.inputs) <= _SMALL
            and all(pad <= over for pad, over in zip(self.pads, self.overhang, strict=True))
        )

    @property
    def overhang(self) -> list[int]:
        return [spread * (size - 1) for size, spread in zip(self.kernel, self.spreads, strict=True)]


def _sizes(
    input: Value, outputs: Sequence[int], weight: Value, steps: Sequence[int], pads: Sequence[int],
    spreads: Sequence[int], groups: int,
) -> _Sizes:  # fmt: skip
    return _Sizes(
        int(input.shape[1]), int(weight.shape[0]), groups, _sides(input), list(outputs), _sides(weight),
        list(steps), list(pads), list(spreads),
    )  # fmt: skip


def convolution(
    input: Value, weight: Value, bias: Value | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Value:  # fmt: skip
    """A convolution, or its transpose, over any number of axes and with groups. input: (n, c, ...)."""
    axes = len(input.shape) - 2
    steps, pads, spreads, extra = (_each(one, axes) for one in (stride, padding, dilation, output_padding))
    options = {"strides": steps, "pads": [*pads, *pads], "dilations": spreads, "group": groups}
    given = [input, weight] if bias is None else [input, weight, bias]
    if transposed:
        return op.ConvTranspose(*given, **options, output_padding=extra)
    # Outputs matter only where each place sees one place: there they are as large as the input.
    sizes = _sizes(input, _sides(input), weight, steps, pads, spreads, groups)
    if not sizes.innermost:
        return op.Conv(*given, **options)
    if sizes.point and sizes.single and bias is None:
        kernel = op.Reshape(weight, _ints([sizes.outside, sizes.inside]))
        return from_innermost(_mixed(kernel, to_innermost(input), sizes.outside, sizes))
    flat = [to_innermost(input), _with_one(weight), *given[2:]]
    made = op.Conv(
        *flat, strides=[*steps, 1], pads=[*pads, 0, *pads, 0], dilations=[*spreads, 1], group=groups
    )
    return from_innermost(made)


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
    # What is not asked for is never used; the exporter only wants some value in its place.
    grad_input = grad_weight = grad_bias = grad_output
    # A transposed convolution is the other one's gradient: input and output change places.
    seen, made = (grad_output, input) if transposed else (input, grad_output)
    sizes = _sizes(seen, _sides(made), weight, steps, pads, spreads, groups)
    if output_mask[0] and transposed:
        options = {"strides": steps, "pads": [*pads, *pads], "dilations": spreads, "group": groups}
        grad_input = op.Conv(grad_output, weight, **options)
    elif output_mask[0]:
        grad_input = _input_gradient(grad_output, weight, sizes)
    if output_mask[1]:
        innermost = sizes.innermost and not transposed
        grad_weight = (_innermost_weight_gradient if innermost else _weight_gradient)(seen, made, sizes)
    if output_mask[2]:
        grad_bias = op.ReduceSum(grad_output, _ints([0, *range(2, 2 + axes)]), keepdims=0)
    return grad_input, grad_weight, grad_bias


# ---- the gradient of the input


def _input_gradient(made: Value, weight: Value, sizes: _Sizes) -> Value:
    """By the turned kernel where the steps are 1: onnxruntime's Conv is faster than its ConvTranspose."""
    if sizes.innermost and (sizes.single or sizes.depthwise or sizes.point):
        return from_innermost(_innermost_input_gradient(to_innermost(made), weight, sizes))
    befores = [over - pad for over, pad in zip(sizes.overhang, sizes.pads, strict=True)]
    if sizes.single and min(befores) >= 0:
        pads = [*befores, *befores]
        return op.Conv(made, _turned(weight, sizes), pads=pads, dilations=sizes.spreads, group=sizes.groups)
    left_over = [
        size - ((out - 1) * step - 2 * pad + over + 1)
        for size, out, step, pad, over in zip(
            sizes.inputs, sizes.outputs, sizes.steps, sizes.pads, sizes.overhang, strict=True
        )
    ]
    return op.ConvTranspose(
        made, weight, strides=sizes.steps, pads=[*sizes.pads, *sizes.pads], dilations=sizes.spreads,
        group=sizes.groups, output_padding=left_over,
    )  # fmt: skip


def _innermost_input_gradient(made: Value, weight: Value, sizes: _Sizes) -> Value:
    """made: (1, o, ..., n). Between the places of larger steps stand zeros."""
    if sizes.point:
        kernel = op.Transpose(op.Reshape(weight, _ints([sizes.outside, sizes.inside])), perm=[1, 0])
        return _spread(_mixed(kernel, made, sizes.inside, sizes), sizes.inside, sizes.inputs, sizes)
    turned = _with_one(_turned(weight, sizes))
    # Of the last places none may be seen: then less is spread.
    ends = [
        size - out * step + pad
        for size, out, step, pad in zip(sizes.inputs, sizes.outputs, sizes.steps, sizes.pads, strict=True)
    ]
    kept = [out * step + min(end, 0) for out, step, end in zip(sizes.outputs, sizes.steps, ends, strict=True)]
    befores = [over - pad for over, pad in zip(sizes.overhang, sizes.pads, strict=True)]
    pads = [*befores, 0, *(max(end, 0) for end in ends), 0]
    wide = _spread(made, sizes.outside, kept, sizes)
    return op.Conv(wide, turned, pads=pads, dilations=[*sizes.spreads, 1], group=sizes.groups)


def _spread(value: Value, channels: int, kept: list[int], sizes: _Sizes) -> Value:
    """(1, channels, outputs ..., n) with zeros between, a step apart. kept: its size."""
    if not sizes.single:
        pairs = [one for out in sizes.outputs for one in (out, 1)]
        apart = op.Reshape(value, _ints([channels, *pairs, -1]))
        zeros = [one for step in sizes.steps for one in (0, step - 1)]
        wide = op.Pad(apart, _ints([0] * (len(pairs) + 2) + [0, *zeros, 0]))
        full = [out * step for out, step in zip(sizes.outputs, sizes.steps, strict=True)]
        value = op.Reshape(wide, _ints([1, channels, *full, -1]))
    else:
        full = sizes.outputs
    if kept == full:
        return value
    axes = list(range(2, 2 + len(kept)))
    return op.Slice(value, _ints([0] * len(kept)), _ints(kept), _ints(axes))


def _turned(weight: Value, sizes: _Sizes) -> Value:
    """(c, o / groups, ...) from (o, c / groups, ...), each axis of the kernel from its end."""
    kernel, groups = sizes.kernel, sizes.groups
    axes, inside, outside = len(kernel), sizes.inside // groups, sizes.outside // groups
    apart = op.Reshape(weight, _ints([groups, outside, inside, *kernel]))
    swapped = op.Transpose(apart, perm=[0, 2, 1, *range(3, 3 + axes)])
    turned = op.Reshape(swapped, _ints([groups * inside, outside, *kernel]))
    long = [axis for axis, size in enumerate(kernel, start=2) if size > 1]
    if not long:
        return turned
    many = len(long)
    return op.Slice(turned, _ints([-1] * many), _ints([_BEGINNING] * many), _ints(long), _ints([-1] * many))


# ---- the gradient of the weight


def _weight_gradient(seen: Value, made: Value, sizes: _Sizes) -> Value:
    """(o, c / groups, kernel): for each place of the kernel, what it saw times the gradient of what it made.

    seen: (n, c, ...). made: the gradient of the output, (n, o, ...). Products of matrices, of the gradient
    with the unfolded input, whose axes are innermost, so that unfolding copies long runs: measured faster in
    onnxruntime than a convolution with its axes swapped, and than unfolding channels innermost. Of one
    channel a group, products element by element are faster still.
    """
    if sizes.depthwise:
        return _depthwise_weight_gradient(seen, made, sizes)
    swapped = [1, 0, *range(2, 2 + len(sizes.kernel))]
    seen, made = op.Transpose(seen, perm=swapped), op.Transpose(made, perm=swapped)
    if sizes.groups == 1:
        return _dense_weight_gradient(_padded(seen, sizes), 0, made, sizes)
    groups, places = sizes.groups, math.prod(sizes.kernel)
    inside, outside = sizes.inside // groups, sizes.outside // groups
    taps = [op.Reshape(tap, _ints([groups, inside, -1])) for tap in _taps(_padded(seen, sizes), sizes)]
    unfolded = taps[0] if places == 1 else op.Concat(*taps, axis=1)
    wanted = op.Reshape(made, _ints([groups, outside, -1]))
    product = op.MatMul(wanted, op.Transpose(unfolded, perm=[0, 2, 1]))
    apart = op.Transpose(op.Reshape(product, _ints([sizes.outside, places, inside])), perm=[0, 2, 1])
    return op.Reshape(apart, _ints([sizes.outside, inside, *sizes.kernel]))


def _depthwise_weight_gradient(seen: Value, made: Value, sizes: _Sizes) -> Value:
    axes = _ints([0, *range(2, 2 + len(sizes.kernel))])
    # The first axis last, along which slices are long runs.
    sums = [
        op.Reshape(op.ReduceSum(op.Mul(tap, made), axes, keepdims=0), _ints([sizes.outside, 1]))
        for rows in _taps(_padded(seen, sizes), sizes, first=1)
        for tap in _taps(rows, sizes, last=1)
    ]
    whole = sums[0] if len(sums) == 1 else op.Concat(*sums, axis=1)
    first, *others = sizes.kernel
    apart = op.Reshape(whole, _ints([sizes.outside, math.prod(others), first]))
    turned = apart if first == 1 or not others else op.Transpose(apart, perm=[0, 2, 1])
    return op.Reshape(turned, _ints([sizes.outside, 1, *sizes.kernel]))


def _innermost_weight_gradient(seen: Value, made: Value, sizes: _Sizes) -> Value:
    """The same with the batch innermost, where nothing need be turned first."""
    seen, made = _padded(to_innermost(seen), sizes, 1), to_innermost(made)
    if not sizes.depthwise:
        return _dense_weight_gradient(seen, 1, made, sizes)
    taps = [op.Reshape(tap, _ints([sizes.inside, 1, -1])) for tap in _taps(seen, sizes)]
    unfolded = taps[0] if len(taps) == 1 else op.Concat(*taps, axis=1)
    product = op.MatMul(unfolded, op.Reshape(made, _ints([sizes.outside, -1, 1])))
    return op.Reshape(product, _ints([sizes.outside, 1, *sizes.kernel]))


def _dense_weight_gradient(seen: Value, channels: int, made: Value, sizes: _Sizes) -> Value:
    """seen: padded; channels: the axis of its channels, before axis 2. made: channels first.

    A plane is unfolded along all but its first axis, along which slices are long runs, which need not be
    brought together.
    """
    flat, places = op.Reshape(made, _ints([sizes.outside, -1])), math.prod(sizes.kernel)
    if places == 1:
        (tap,) = _taps(seen, sizes)
        product = op.MatMul(flat, op.Transpose(op.Reshape(tap, _ints([sizes.inside, -1])), perm=[1, 0]))
        return op.Reshape(product, _ints([sizes.outside, sizes.inside, *sizes.kernel]))
    wanted = op.Transpose(flat, perm=[1, 0])
    if len(sizes.kernel) == 1:
        rows = [op.Reshape(tap, _ints([sizes.inside, -1])) for tap in _taps(seen, sizes)]
        products = [op.MatMul(op.Concat(*rows, axis=0), wanted)]
    else:
        others = math.prod(sizes.kernel[1:])
        along = list(_taps(seen, sizes, first=1))
        wide = along[0] if others == 1 else op.Concat(*along, axis=channels)
        products = [
            op.MatMul(op.Reshape(tap, _ints([others * sizes.inside, -1])), wanted)
            for tap in _taps(wide, sizes, last=1)
        ]
    product = products[0] if len(products) == 1 else op.Concat(*products, axis=0)
    apart = op.Transpose(op.Reshape(product, _ints([places, sizes.inside, sizes.outside])), perm=[2, 1, 0])
    return op.Reshape(apart, _ints([sizes.outside, sizes.inside, *sizes.kernel]))


def _padded(seen: Value, sizes: _Sizes, behind: int = 0) -> Value:
    """behind: axes after the spatial ones."""
    if not any(sizes.pads):
        return seen
    beside = [0] * behind
    return op.Pad(seen, _ints([0, 0, *sizes.pads, *beside, 0, 0, *sizes.pads, *beside]))


def _taps(seen: Value, sizes: _Sizes, first: int = 0, last: int | None = None) -> Iterator[Value]:
    """What each place of the kernel sees of a padded value, as large as the output, along some axes."""
    part = slice(first, last)
    kernel, steps, spreads, outputs = (
        one[part] for one in (sizes.kernel, sizes.steps, sizes.spreads, sizes.outputs)
    )
    if math.prod(kernel) == 1 and not any(sizes.pads[part]) and all(step == 1 for step in steps):
        yield seen
        return
    axes = list(range(2, 2 + len(sizes.kernel)))[part]
    for place in np.ndindex(*kernel):
        begins = [tap * spread for tap, spread in zip(place, spreads, strict=True)]
        ends = [begin + (out - 1) * step + 1 for begin, out, step in zip(begins, outputs, steps, strict=True)]
        yield op.Slice(seen, _ints(begins), _ints(ends), _ints(axes), _ints(steps))


def _mixed(kernel: Value, value: Value, channels: int, sizes: _Sizes) -> Value:
    """Each place's channels times a matrix. value: (1, ..., n), of the output's size."""
    others = sizes.inside + sizes.outside - channels
    rows = op.Reshape(value, _ints([others, -1]))
    return op.Reshape(op.MatMul(kernel, rows), _ints([1, channels, *sizes.outputs, -1]))


def _with_one(weight: Value) -> Value:
    """A kernel with another axis, of size 1."""
    return op.Unsqueeze(weight, _ints([-1]))


def _sides(value: Value) -> list[int]:
    """The spatial part of a shape (batch, channels, ...)."""
    return [int(size) for size in value.shape[2:]]


def _each(values: Sequence[int], axes: int) -> list[int]:
    return list(values) if len(values) == axes else list(values) * axes


def _ints(values: list[int]) -> Value:
    return op.Constant(value_ints=values)
