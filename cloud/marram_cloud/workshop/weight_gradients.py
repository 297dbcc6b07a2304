"""The gradient of a convolution's weight, as ``workshop/convolutions.py`` wants it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from onnxscript import opset18 as op

from marram_cloud.workshop.convolution_sizes import Sizes, Value, ints
from marram_cloud.workshop.innermost import to_innermost


def weight_gradient(seen: Value, made: Value, sizes: Sizes) -> Value:
    """(o, c / groups, kernel): for each place of the kernel, what it saw times the gradient of what it made.

    seen: (n, c, ...). made: the gradient of the output, (n, o, ...). Products of matrices, of the gradient
    with the unfolded input, whose axes are innermost, so that unfolding copies long runs: measured faster in
    onnxruntime than a convolution with its axes swapped, and than unfolding channels innermost.
    """
    if sizes.groups == 1:
        return _dense_weight_gradient(_padded(seen, sizes), made, sizes)
    swapped = [1, 0, *range(2, 2 + len(sizes.kernel))]
    seen, made = _padded(op.Transpose(seen, perm=swapped), sizes), op.Transpose(made, perm=swapped)
    if sizes.depthwise:
        return _depthwise_weight_gradient(seen, made, sizes)
    groups, places = sizes.groups, math.prod(sizes.kernel)
    inside, outside = sizes.inside // groups, sizes.outside // groups
    columns = _columns(seen, sizes, [sizes.inside, -1])
    rows = zip(*(_taps(column, sizes, last=-1) for column in columns), strict=True)
    taps = [op.Reshape(tap, ints([groups, inside, -1])) for row in rows for tap in row]
    unfolded = taps[0] if places == 1 else op.Concat(*taps, axis=1)
    wanted = op.Reshape(made, ints([groups, outside, -1]))
    product = op.MatMul(wanted, op.Transpose(unfolded, perm=[0, 2, 1]))
    apart = op.Transpose(op.Reshape(product, ints([sizes.outside, places, inside])), perm=[0, 2, 1])
    return op.Reshape(apart, ints([sizes.outside, inside, *sizes.kernel]))


def _dense_weight_gradient(seen: Value, made: Value, sizes: Sizes) -> Value:
    """seen: padded. It is unfolded along its last axis alone; along the others slices are long runs, which
    need not be brought together. One product for each window, and their sum."""
    across, places = sizes.kernel[-1], math.prod(sizes.outputs)
    columns = list(_columns(seen, sizes, [-1, sizes.inside]))
    wide = columns[0] if across == 1 else op.Concat(*columns, axis=1)
    wanted = op.Transpose(op.Reshape(made, ints([-1, sizes.outside, places])), perm=[0, 2, 1])
    rows = [
        op.ReduceSum(
            op.MatMul(op.Reshape(tap, ints([-1, across * sizes.inside, places])), wanted),
            ints([0]),
            keepdims=0,
        )
        for tap in _taps(wide, sizes, last=-1)
    ]
    return _with_kernel(rows, sizes)


def _with_kernel(rows: list[Value], sizes: Sizes) -> Value:
    """(o, c, kernel) from one (columns * c, o) for each of the kernel's rows."""
    whole = rows[0] if len(rows) == 1 else op.Concat(*rows, axis=0)
    places = math.prod(sizes.kernel)
    apart = op.Transpose(op.Reshape(whole, ints([places, sizes.inside, sizes.outside])), perm=[2, 1, 0])
    return op.Reshape(apart, ints([sizes.outside, sizes.inside, *sizes.kernel]))


def _depthwise_weight_gradient(seen: Value, made: Value, sizes: Sizes) -> Value:
    """seen, padded, and made: channels first. One product for each place of the kernel."""
    wanted = op.Reshape(made, ints([sizes.outside, 1, -1]))
    columns = [
        [
            op.MatMul(wanted, op.Transpose(op.Reshape(tap, ints([sizes.inside, 1, -1])), perm=[0, 2, 1]))
            for tap in _taps(column, sizes, last=-1)
        ]
        for column in _columns(seen, sizes, [sizes.inside, -1])
    ]
    places = [place for row in zip(*columns, strict=True) for place in row]
    whole = places[0] if len(places) == 1 else op.Concat(*places, axis=1)
    return op.Reshape(whole, ints([sizes.outside, 1, *sizes.kernel]))


def innermost_weight_gradient(seen: Value, made: Value, sizes: Sizes) -> Value:
    """The same with the batch innermost, where nothing need be turned first."""
    seen, made = _padded(to_innermost(seen), sizes, 1), to_innermost(made)
    if sizes.depthwise:
        return _pairs_of_rows(seen, made, sizes)
    flat = op.Reshape(made, ints([sizes.outside, -1]))
    if math.prod(sizes.kernel) == 1:
        (tap,) = _taps(seen, sizes)
        product = op.MatMul(flat, op.Transpose(op.Reshape(tap, ints([sizes.inside, -1])), perm=[1, 0]))
        return op.Reshape(product, ints([sizes.outside, sizes.inside, *sizes.kernel]))
    wanted, across = op.Transpose(flat, perm=[1, 0]), sizes.kernel[-1]
    columns = list(_taps(seen, sizes, first=-1))
    wide = columns[0] if across == 1 else op.Concat(*columns, axis=1)
    rows = [
        op.MatMul(op.Reshape(tap, ints([across * sizes.inside, -1])), wanted)
        for tap in _taps(wide, sizes, last=-1)
    ]
    return _with_kernel(rows, sizes)


def _pairs_of_rows(seen: Value, made: Value, sizes: Sizes) -> Value:
    """Of a depthwise convolution: every row of the gradient with every row that is seen, of each channel and
    each column of the kernel. Those that the kernel brings together stand a step further from row to row."""
    count, across = sizes.outputs[0], sizes.kernel[1]
    height, width = sizes.wide[0], sizes.wide[0] * across
    columns = list(_taps(seen, sizes, first=-1))
    unfolded = op.Reshape(
        columns[0] if across == 1 else op.Concat(*columns, axis=2), ints([sizes.inside, width, -1])
    )
    rows = op.Reshape(made, ints([sizes.outside, count, -1]))
    pairs = op.Reshape(
        op.MatMul(rows, op.Transpose(unfolded, perm=[0, 2, 1])), ints([sizes.outside, count * width])
    )
    moved = op.Pad(pairs, ints([0, 0, 0, count * sizes.steps[0]]))
    summed = op.ReduceSum(
        op.Reshape(moved, ints([sizes.outside, count, width + sizes.steps[0]])), ints([1]), keepdims=0
    )
    apart = op.Reshape(
        op.Slice(summed, ints([0]), ints([width]), ints([1])), ints([sizes.outside, across, height])
    )
    spread, end = sizes.spreads[0], sizes.overhang[0] + 1
    taps = op.Slice(apart, ints([0]), ints([end]), ints([2]), ints([spread]))
    turned = op.Transpose(taps, perm=[0, 2, 1])
    return op.Reshape(turned, ints([sizes.outside, 1, *sizes.kernel]))


def _padded(seen: Value, sizes: Sizes, behind: int = 0) -> Value:
    """behind: axes after the spatial ones; without them the last axis is whole steps long."""
    beside = [0] * behind
    ends = list(sizes.pads)
    if not behind:
        ends[-1] += sizes.rest
    if not any(ends):
        return seen
    return op.Pad(seen, ints([0, 0, *sizes.pads, *beside, 0, 0, *ends, *beside]))


def _columns(seen: Value, sizes: Sizes, lead: list[int]) -> Iterator[Value]:
    """What each place along the kernel's last axis sees of a padded value. lead: the sizes of the axes before
    the spatial ones, -1 for the batch.

    With larger steps each is a run of one phase, which copies faster than single values a step apart.
    """
    step, places = sizes.steps[-1], sizes.kernel[-1]
    if step == 1 or places == 1:
        yield from _taps(seen, sizes, first=-1)
        return
    whole = sizes.wide[-1] + sizes.rest
    axes = [*lead, *sizes.wide[:-1]]
    apart = op.Transpose(op.Reshape(seen, ints([-1, whole // step, step])), perm=[2, 0, 1])
    # Of this shape onnxruntime does not put the slices first, which would copy single values.
    phases = op.Reshape(apart, ints([step, *axes, whole // step]))
    for tap in range(places):
        begin, phase = divmod(tap * sizes.spreads[-1], step)
        end = begin + sizes.outputs[-1]
        run = op.Slice(phases, ints([phase, begin]), ints([phase + 1, end]), ints([0, len(axes) + 1]))
        yield op.Reshape(run, ints([*axes, sizes.outputs[-1]]))


def _taps(seen: Value, sizes: Sizes, first: int | None = None, last: int | None = None) -> Iterator[Value]:
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
        yield op.Slice(seen, ints(begins), ints(ends), ints(axes), ints(steps))
