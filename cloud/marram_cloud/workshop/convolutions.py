"""ONNX forms of convolutions and of their gradients, in opset 18, as fast in onnxruntime as they get.

Small planes are computed with the batch as the innermost axis (``workshop/innermost.py``), where a
convolution copies runs of the batch's length, not of a row's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxscript import opset18 as op

from marram_cloud.workshop.convolution_sizes import Sizes, Value, each, ints, sides, sizes_of
from marram_cloud.workshop.innermost import from_innermost, to_innermost
from marram_cloud.workshop.weight_gradients import innermost_weight_gradient, weight_gradient

# Where a Slice that goes backwards ends, so that it takes the first element too.
_BEGINNING = -(2**31)


def convolution(
    input: Value, weight: Value, bias: Value | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Value:  # fmt: skip
    """A convolution, or its transpose, over any number of axes and with groups. input: (n, c, ...)."""
    axes = len(input.shape) - 2
    steps, pads, spreads, extra = (each(one, axes) for one in (stride, padding, dilation, output_padding))
    options = {"strides": steps, "pads": [*pads, *pads], "dilations": spreads, "group": groups}
    given = [input, weight] if bias is None else [input, weight, bias]
    if transposed:
        return op.ConvTranspose(*given, **options, output_padding=extra)
    # Outputs matter only where each place sees one place: there they are as large as the input.
    sizes = sizes_of(input, sides(input), weight, steps, pads, spreads, groups)
    if not sizes.innermost:
        return op.Conv(*given, **options)
    if sizes.point and sizes.single and bias is None:
        kernel = op.Reshape(weight, ints([sizes.outside, sizes.inside]))
        return from_innermost(_mixed(kernel, to_innermost(input), sizes.outside, sizes))
    laid = to_innermost(input)
    if sizes.depthwise and sizes.single and spreads[0] == 1 and bias is None:
        return from_innermost(_all_rows(laid, weight, pads, pads, sizes))
    made = op.Conv(
        laid, _with_one(weight), *given[2:], strides=[*steps, 1], pads=[*pads, 0, *pads, 0],
        dilations=[*spreads, 1], group=groups,
    )  # fmt: skip
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
    steps, pads, spreads = (each(one, axes) for one in (stride, padding, dilation))
    # What is not asked for is never used; the exporter only wants some value in its place.
    grad_input = grad_weight = grad_bias = grad_output
    # A transposed convolution is the other one's gradient: input and output change places.
    seen, made = (grad_output, input) if transposed else (input, grad_output)
    sizes = sizes_of(seen, sides(made), weight, steps, pads, spreads, groups)
    if output_mask[0] and transposed:
        options = {"strides": steps, "pads": [*pads, *pads], "dilations": spreads, "group": groups}
        grad_input = op.Conv(grad_output, weight, **options)
    elif output_mask[0]:
        grad_input = _input_gradient(grad_output, weight, sizes)
    if output_mask[1]:
        innermost = sizes.innermost and not transposed
        grad_weight = (innermost_weight_gradient if innermost else weight_gradient)(seen, made, sizes)
    if output_mask[2]:
        grad_bias = op.ReduceSum(grad_output, ints([0, *range(2, 2 + axes)]), keepdims=0)
    return grad_input, grad_weight, grad_bias


# ---- the gradient of the input


def _input_gradient(made: Value, weight: Value, sizes: Sizes) -> Value:
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


def _innermost_input_gradient(made: Value, weight: Value, sizes: Sizes) -> Value:
    """made: (1, o, ..., n). Between the places of larger steps stand zeros."""
    if sizes.point:
        kernel = op.Transpose(op.Reshape(weight, ints([sizes.outside, sizes.inside])), perm=[1, 0])
        return _spread(_mixed(kernel, made, sizes.inside, sizes), sizes.inside, sizes.inputs, sizes)
    turned = _turned(weight, sizes)
    # Of the last places none may be seen: then less is spread.
    ends = [
        size - out * step + pad
        for size, out, step, pad in zip(sizes.inputs, sizes.outputs, sizes.steps, sizes.pads, strict=True)
    ]
    kept = [out * step + min(end, 0) for out, step, end in zip(sizes.outputs, sizes.steps, ends, strict=True)]
    befores = [over - pad for over, pad in zip(sizes.overhang, sizes.pads, strict=True)]
    behind = [max(end, 0) for end in ends]
    wide = _spread(made, sizes.outside, kept, sizes)
    if sizes.depthwise and sizes.spreads[0] == 1:
        return _all_rows(wide, turned, befores, behind, replace(sizes, inputs=kept))
    pads = [*befores, 0, *behind, 0]
    return op.Conv(wide, _with_one(turned), pads=pads, dilations=[*sizes.spreads, 1], group=sizes.groups)


def _all_rows(value: Value, weight: Value, befores: list[int], behind: list[int], sizes: Sizes) -> Value:
    """A depthwise convolution with steps of 1 and the batch innermost, all rows of a channel at once.

    Each is an output of its own of a kernel that is as high as the padded plane: so far less is unfolded.
    weight: (c, 1, rows, columns). sizes: of them the channels, the input and the kernel.
    """
    rows, columns = sizes.kernel
    across = sizes.inputs[1] + befores[1] + behind[1] - sizes.spreads[1] * (columns - 1)
    height = sizes.inputs[0] + befores[0] + behind[0]
    count = height - rows + 1
    # The kernel and as many rows of zeros, count times over, read a row less at a time: each moves by one.
    one = op.Reshape(op.Pad(weight, ints([0] * 6 + [count, 0])), ints([sizes.outside, -1]))
    many = one if count == 1 else op.Concat(*[one] * count, axis=1)
    cut = op.Slice(many, ints([0]), ints([count * height * columns]), ints([1]))
    tall = op.Reshape(cut, ints([sizes.outside * count, 1, height, columns, 1]))
    made = op.Conv(
        value, tall, pads=[*befores, 0, *behind, 0], dilations=[1, sizes.spreads[1], 1], group=sizes.groups
    )
    return op.Reshape(made, ints([1, sizes.outside, count, across, -1]))


def _spread(value: Value, channels: int, kept: list[int], sizes: Sizes) -> Value:
    """(1, channels, outputs ..., n) with zeros between, a step apart. kept: its size."""
    if not sizes.single:
        pairs = [one for out in sizes.outputs for one in (out, 1)]
        apart = op.Reshape(value, ints([channels, *pairs, -1]))
        zeros = [one for step in sizes.steps for one in (0, step - 1)]
        wide = op.Pad(apart, ints([0] * (len(pairs) + 2) + [0, *zeros, 0]))
        full = [out * step for out, step in zip(sizes.outputs, sizes.steps, strict=True)]
        value = op.Reshape(wide, ints([1, channels, *full, -1]))
    else:
        full = sizes.outputs
    if kept == full:
        return value
    axes = list(range(2, 2 + len(kept)))
    return op.Slice(value, ints([0] * len(kept)), ints(kept), ints(axes))


def _turned(weight: Value, sizes: Sizes) -> Value:
    """(c, o / groups, ...) from (o, c / groups, ...), each axis of the kernel from its end."""
    kernel, groups = sizes.kernel, sizes.groups
    axes, inside, outside = len(kernel), sizes.inside // groups, sizes.outside // groups
    apart = op.Reshape(weight, ints([groups, outside, inside, *kernel]))
    swapped = op.Transpose(apart, perm=[0, 2, 1, *range(3, 3 + axes)])
    turned = op.Reshape(swapped, ints([groups * inside, outside, *kernel]))
    long = [axis for axis, size in enumerate(kernel, start=2) if size > 1]
    if not long:
        return turned
    many = len(long)
    return op.Slice(turned, ints([-1] * many), ints([_BEGINNING] * many), ints(long), ints([-1] * many))


def _mixed(kernel: Value, value: Value, channels: int, sizes: Sizes) -> Value:
    """Each place's channels times a matrix. value: (1, ..., n), of the output's size."""
    others = sizes.inside + sizes.outside - channels
    rows = op.Reshape(value, ints([others, -1]))
    return op.Reshape(op.MatMul(kernel, rows), ints([1, channels, *sizes.outputs, -1]))


def _with_one(weight: Value) -> Value:
    """A kernel with another axis, of size 1."""
    return op.Unsqueeze(weight, ints([-1]))
