"""Each backward operator that PyTorch's exporter lacks, against PyTorch's own autograd over random shapes.

The translations are run operator by operator in onnxruntime; ``test_build`` runs whole exported graphs.
"""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from marram_cloud.workshop import convolution_sizes, convolutions, weight_gradients
from marram_cloud.workshop.convolutions import convolution, convolution_backward
from marram_cloud.workshop.normalise import batch_norm_to_onnx
from marram_cloud.workshop.translations import (
    UnsupportedError,
    avg_pool_backward,
    max_pool_backward,
    threshold_backward,
)
from onnxscript import opset18 as op
from onnxscript import tensor
from torch.nn import functional

FEW = settings(max_examples=20, deadline=None)
MANY = settings(max_examples=60, deadline=None)
batches, channels = st.integers(1, 4), st.integers(1, 5)


def onnx(value: torch.Tensor) -> tensor.Tensor:
    return tensor.Tensor(value.detach().numpy())


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator)


def agree(found: tensor.Tensor, expected: torch.Tensor) -> None:
    assert found.value.shape == tuple(expected.shape)
    np.testing.assert_allclose(found.value, expected.numpy(), atol=1e-5 * max(1, float(expected.abs().max())))


@st.composite
def cases(draw):
    """One over one or two axes: sizes, and the options of torch's functions."""
    axes = draw(st.integers(1, 2))
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    each = lambda low, high: [draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    inside, outside = (groups * draw(st.integers(1, 3)) for _ in range(2))
    if draw(st.booleans()):  # depthwise
        inside = outside = groups
    sides, kernel = each(1, 12), each(1, 4)
    options = {"stride": each(1, 3), "padding": each(0, 3), "dilation": each(1, 3), "groups": groups}
    return draw(batches), inside, outside, sides, kernel, options


@pytest.fixture(params=["batch outermost", "batch innermost"])
def layout(request, monkeypatch):
    """Both layouts of planes. The marks, which ``innermost`` takes out of a graph, are computed."""
    inside = lambda value: op.Unsqueeze(op.Transpose(value, perm=[1, 2, 3, 0]), ints(0))  # noqa: E731
    outside = lambda value: op.Transpose(op.Squeeze(value, ints(0)), perm=[3, 0, 1, 2])  # noqa: E731
    monkeypatch.setattr(convolution_sizes, "_SMALL", 256 if request.param == "batch innermost" else 0)
    monkeypatch.setattr(convolutions, "to_innermost", inside)
    monkeypatch.setattr(convolutions, "from_innermost", outside)
    monkeypatch.setattr(weight_gradients, "to_innermost", inside)


def ints(*values):
    return op.Constant(value_ints=list(values))


def sound(case):
    """The case, if the kernel fits into the padded input."""
    _, _, _, sides, kernel, options = case
    axes = zip(sides, options["padding"], options["dilation"], kernel, strict=True)
    assume(min(side + 2 * pad - spread * (size - 1) for side, pad, spread, size in axes) >= 1)
    return case


def gradients(out, x, weight, bias, options, transposed):
    gradient = random(*out.shape)
    out.backward(gradient)
    return convolution_backward(
        onnx(gradient), onnx(x), onnx(weight), [len(bias)], options["stride"], options["padding"],
        options["dilation"], transposed, options.get("output_padding", [0] * len(options["stride"])),
        options["groups"], [True, True, True],
    )  # fmt: skip


@pytest.mark.usefixtures("layout")
@MANY
@given(cases())
def test_the_gradients_of_a_convolution(case):
    batch, inside, outside, sides, kernel, options = sound(case)
    x, weight, bias = (
        random(*shape).requires_grad_()
        for shape in ((batch, inside, *sides), (outside, inside // options["groups"], *kernel), (outside,))
    )
    function = (functional.conv1d, functional.conv2d)[len(sides) - 1]
    found = gradients(function(x, weight, bias, **options), x, weight, bias, options, False)
    for one, expected in zip(found, (x.grad, weight.grad, bias.grad), strict=True):
        agree(one, expected)


@pytest.mark.usefixtures("layout")
@FEW
@given(cases(), st.booleans())
def test_a_convolution(case, biased):
    batch, inside, outside, sides, kernel, options = sound(case)
    x, weight = random(batch, inside, *sides), random(outside, inside // options["groups"], *kernel)
    bias = random(outside) if biased else None
    expected = (functional.conv1d, functional.conv2d)[len(sides) - 1](x, weight, bias, **options)
    found = convolution(
        onnx(x), onnx(weight), onnx(bias) if biased else None, options["stride"], options["padding"],
        options["dilation"], False, [0] * len(sides), options["groups"],
    )  # fmt: skip
    agree(found, expected)


@pytest.mark.usefixtures("layout")
@MANY
@given(cases(), st.data())
def test_the_gradients_of_a_transposed_convolution(case, data):
    batch, inside, outside, sides, kernel, options = case
    more = [
        data.draw(st.integers(0, max(step, spread) - 1))
        for step, spread in zip(options["stride"], options["dilation"], strict=True)
    ]
    made = [
        (side - 1) * step - 2 * pad + spread * (size - 1) + 1 + rest
        for side, step, pad, spread, size, rest in zip(
            sides, options["stride"], options["padding"], options["dilation"], kernel, more, strict=True
        )
    ]
    # More padding behind the output than a step: its gradient has one more place, which PyTorch leaves out.
    assume(min(made) >= 1 and all(rest < step for rest, step in zip(more, options["stride"], strict=True)))
    x, weight, bias = (
        random(*shape).requires_grad_()
        for shape in ((batch, inside, *sides), (inside, outside // options["groups"], *kernel), (outside,))
    )
    function = (functional.conv_transpose1d, functional.conv_transpose2d)[len(sides) - 1]
    options = {**options, "output_padding": more}
    found = gradients(function(x, weight, bias, **options), x, weight, bias, options, True)
    for one, expected in zip(found, (x.grad, weight.grad, bias.grad), strict=True):
        agree(one, expected)


@pytest.mark.parametrize(("rows", "columns", "innermost"), [(25, 5, True), (128, 2, False), (20, 20, False)])
def test_a_tall_plane_is_not_made_all_rows_at_once(rows, columns, innermost):
    """The kernel for that would be as high as the plane, and there would be one for each row."""
    x, weight = np.zeros((1, 4, rows, columns)), np.zeros((4, 1, 3, 3))
    sizes = convolution_sizes.sizes_of(x, (rows, columns), weight, (1, 1), (1, 1), (1, 1), 4)
    assert sizes.depthwise
    assert sizes.innermost is innermost


def pooled(function, batch, channel, length, gradient_of, **options):
    """Through two dimensions with a height of one, as PyTorch's one-dimensional poolings go."""
    x = random(batch, channel, 1, length).requires_grad_()
    out = function(x, **options)
    gradient = random(*(out[0] if isinstance(out, tuple) else out).shape)
    (out[0] if isinstance(out, tuple) else out).backward(gradient)
    agree(gradient_of(onnx(gradient), onnx(x), out), x.grad)


@FEW
@given(
    batches, channels, st.integers(1, 20), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2),
    st.integers(1, 2), st.booleans(),
)  # fmt: skip
def test_the_gradient_of_a_max_pooling(batch, channel, length, kernel, stride, padding, dilation, ceil):
    assume(padding <= kernel // 2 and length + 2 * padding >= dilation * (kernel - 1) + 1)
    arguments = ([1, kernel], [1, stride], [0, padding], [1, dilation], ceil)
    x = random(batch, channel, 1, length)
    places = functional.max_pool2d_with_indices(x, *arguments)[1]
    if int(places.min()) < 0 or int(places.max()) >= length:
        # PyTorch says itself that a maximum stands outside; its backward would write there.
        with pytest.raises(UnsupportedError, match="nothing but padding"):
            max_pool_backward(onnx(places.float()), onnx(x), *arguments, onnx(places))
        return
    pooled(
        lambda x: functional.max_pool2d_with_indices(x, *arguments),
        batch, channel, length,
        lambda gradient, x, out: max_pool_backward(gradient, x, *arguments, onnx(out[1])),
    )  # fmt: skip


@FEW
@given(
    batches, channels, st.integers(1, 20), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2),
    st.booleans(), st.none() | st.integers(1, 9),
)  # fmt: skip
def test_the_gradient_of_an_average_pooling(batch, channel, length, kernel, stride, padding, padded, divisor):
    assume(padding <= kernel // 2 and length + 2 * padding >= kernel)
    arguments = ([1, kernel], [1, stride], [0, padding], False, padded, divisor)
    pooled(
        lambda x: functional.avg_pool2d(x, *arguments),
        batch, channel, length,
        lambda gradient, x, out: avg_pool_backward(gradient, x, *arguments),
    )  # fmt: skip


@FEW
@given(batches, channels, st.sampled_from((0.0, -0.5, 0.3)))
def test_the_gradient_of_a_threshold(batch, channel, threshold):
    x, gradient = functional.threshold(random(batch, channel, 7), threshold, 0.0), random(batch, channel, 7)
    expected = torch.ops.aten.threshold_backward(gradient, x, threshold)
    agree(threshold_backward(onnx(gradient), onnx(x), threshold), expected)


@FEW
@given(st.integers(2, 5), channels, st.lists(st.integers(1, 4), max_size=3), st.floats(1e-6, 0.1))
def test_a_batch_normalisation_in_training(batch, channel, after, eps):
    x, weight, bias = 3 * random(batch, channel, *after) + 2, random(channel), random(channel)
    count = torch.tensor(float(x.numel() / channel))
    found = batch_norm_to_onnx(onnx(x), onnx(weight), onnx(bias), onnx(count), eps, 1)
    for one, expected in zip(found, torch.ops.marram.batch_norm(x, weight, bias, count, eps, 1), strict=True):
        agree(one, expected)


pairs = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high)).map(list)  # noqa: E731


@FEW
@given(batches, channels, pairs(4, 9), pairs(1, 4), pairs(1, 4), pairs(0, 2), st.booleans())
def test_the_gradients_of_poolings_over_two_axes(batch, channel, sides, kernel, stride, padding, padded):
    padding = [min(pad, size // 2) for pad, size in zip(padding, kernel, strict=True)]
    x = random(batch, channel, *sides)
    for function, options, backward in (
        (functional.max_pool2d_with_indices, ([1, 1], False), max_pool_backward),
        (functional.avg_pool2d, (False, padded, None), avg_pool_backward),
    ):
        arguments = (kernel, stride, padding, *options)
        seen = x.clone().requires_grad_()
        made = function(seen, *arguments)
        out, more = (made[0], [onnx(made[1])]) if isinstance(made, tuple) else (made, [])
        gradient = random(*out.shape)
        out.backward(gradient)
        agree(backward(onnx(gradient), onnx(x), *arguments, *more), seen.grad)


def test_an_average_pooling_with_ceil_mode_says_what_to_use():
    with pytest.raises(UnsupportedError, match="without ceil_mode"):
        avg_pool_backward(None, None, [1, 2], [1, 2], [0, 0], True, True, None)
