"""Each backward operator that PyTorch's exporter lacks, against PyTorch's own autograd over random shapes.

The translations are run operator by operator in onnxruntime; ``test_build`` runs whole exported graphs.
"""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from marram_cloud.workshop.translations import (
    UnsupportedError,
    avg_pool_backward,
    convolution_backward,
    max_pool_backward,
)
from onnxscript import tensor
from torch.nn import functional

FEW = settings(max_examples=20, deadline=None)
batches, channels = st.integers(1, 4), st.integers(1, 5)


def onnx(value: torch.Tensor) -> tensor.Tensor:
    return tensor.Tensor(value.detach().numpy())


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator)


def agree(found: tensor.Tensor, expected: torch.Tensor) -> None:
    assert found.value.shape == tuple(expected.shape)
    np.testing.assert_allclose(found.value, expected.numpy(), atol=1e-5 * max(1, float(expected.abs().max())))


@FEW
@given(
    batches, channels, channels, st.integers(1, 20), st.integers(1, 6), st.integers(1, 4), st.integers(0, 4),
    st.integers(1, 3),
)  # fmt: skip
def test_the_gradients_of_a_convolution(batch, inside, outside, length, kernel, stride, padding, dilation):
    assume(length + 2 * padding >= dilation * (kernel - 1) + 1)
    x, weight, bias = (
        random(*shape).requires_grad_()
        for shape in ((batch, inside, length), (outside, inside, kernel), (outside,))
    )
    out = functional.conv1d(x, weight, bias, stride, padding, dilation)
    gradient = random(*out.shape)
    out.backward(gradient)
    found = convolution_backward(
        onnx(gradient), onnx(x), onnx(weight), [outside], [stride], [padding], [dilation], False, [0], 1,
        [True, True, True],
    )  # fmt: skip
    for one, expected in zip(found, (x.grad, weight.grad, bias.grad), strict=True):
        agree(one, expected)


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


@pytest.mark.parametrize(
    ("shape", "weight", "groups", "transposed"),
    [
        ((1, 4, 9), (4, 2, 3), 2, False),
        ((1, 2, 9), (2, 4, 3), 1, True),
        ((1, 2, 5, 5), (4, 2, 3, 3), 1, False),
    ],
    ids=["groups", "transposed", "two dimensions"],
)
def test_a_convolution_that_is_not_supported_says_what_to_use(shape, weight, groups, transposed):
    dimensions = len(shape) - 2
    with pytest.raises(UnsupportedError, match="use Conv1d with groups=1"):
        convolution_backward(
            onnx(random(*shape)), onnx(random(*shape)), onnx(random(*weight)), None, [1] * dimensions,
            [0] * dimensions, [1] * dimensions, transposed, [0] * dimensions, groups, [True, True, False],
        )  # fmt: skip


def test_an_average_pooling_with_ceil_mode_says_what_to_use():
    with pytest.raises(UnsupportedError, match="without ceil_mode"):
        avg_pool_backward(None, None, [1, 2], [1, 2], [0, 0], True, True, None)
