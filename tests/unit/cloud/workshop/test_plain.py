"""The forms that stand in for PyTorch's functions while a program is traced, and their gradients, over random
shapes. What is exported of them is compared by every build."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marram_cloud.workshop import translations
from marram_cloud.workshop.plain import Plain
from torch.nn import functional

SOME = settings(max_examples=20, deadline=None)
sizes = st.integers(1, 5)
seeds = st.integers(0, 1000)


def values(draw, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(draw(seeds)))


def agree(ours, theirs, *inputs, **options):
    """Values, and the gradients of a sum of them, in float64 so that only the formula counts."""
    sides = []
    for function in (ours, theirs):
        those = [one.double().requires_grad_() for one in inputs]
        made = function(*those, **options)
        total = (made * torch.arange(1.0, made.numel() + 1).reshape(made.shape)).sum()
        sides.append([made, *torch.autograd.grad(total, those)])
    for one, other in zip(*sides, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


@SOME
@given(st.data(), st.lists(sizes, min_size=1, max_size=4), sizes, sizes, st.booleans())
def test_linear(data, front, inside, outside, bias):
    inputs = [values(data.draw, *front, inside), values(data.draw, outside, inside)]
    inputs += [values(data.draw, outside)] if bias else []
    agree(Plain().linear, functional.linear, *inputs)


@SOME
@given(st.data(), st.lists(sizes, max_size=3))
@pytest.mark.parametrize("name", ["silu", "mish"])
def test_activations(name, data, shape):
    agree(getattr(Plain(), name), getattr(functional, name), 5 * values(data.draw, *shape))


@SOME
@given(
    st.data(), st.lists(sizes, max_size=2), sizes, sizes, sizes, sizes,
    st.sampled_from(["none", "causal", "added", "allowed"]), st.none() | st.floats(0.1, 2),
)  # fmt: skip
def test_attention(data, front, queries, keys, inside, outside, mask, scale):
    query, key = (values(data.draw, *front, many, inside) for many in (queries, keys))
    value = values(data.draw, *front, keys, outside)
    options = {"scale": scale, "is_causal": mask == "causal"}
    if mask == "added":
        options["attn_mask"] = values(data.draw, queries, keys).double()
    if mask == "allowed":
        allowed = values(data.draw, queries, keys) > 0
        allowed[:, 0] = True  # PyTorch gives NaN where nothing may be looked at
        options["attn_mask"] = allowed
    agree(
        Plain().scaled_dot_product_attention, functional.scaled_dot_product_attention, query, key, value,
        **options,
    )  # fmt: skip


@SOME
@given(st.data(), sizes, st.lists(sizes, max_size=2), st.booleans(), st.floats(1e-6, 0.1))
def test_batch_normalisation_in_training(data, channels, after, affine, eps):
    batch = data.draw(st.integers(2, 5))
    weights = [values(data.draw, channels), values(data.draw, channels)] if affine else []
    agree(
        lambda x, *those: Plain().batch_norm(x, None, None, *those, training=True, eps=eps),
        lambda x, *those: functional.batch_norm(x, None, None, *those, training=True, eps=eps),
        values(data.draw, batch, channels, *after), *weights,
    )  # fmt: skip


@SOME
@given(st.data(), sizes, sizes, st.lists(sizes, max_size=2), st.integers(1, 3), st.floats(0.1, 1))
def test_batch_normalisation_counts_its_statistics_and_uses_them(
    data, batch, channels, after, calls, momentum
):
    x = values(data.draw, batch + 1, channels, *after)
    mean, variance = values(data.draw, channels), values(data.draw, channels).abs() + 0.1
    plain, moved = Plain(), (mean.clone(), variance.clone())
    for _ in range(calls):
        plain.batch_norm(x, mean, variance, training=True, momentum=momentum)
        functional.batch_norm(x, *moved, training=True, momentum=momentum)
        x = x * 2 + 1
    for old, new in zip((mean, variance), moved, strict=True):
        step = old + momentum * (plain.seen[id(old)] - old)
        torch.testing.assert_close(step, new, atol=1e-4, rtol=1e-4)
    used = mean.double(), variance.double()
    agree(
        lambda x: plain.batch_norm(x, *used, training=False),
        lambda x: functional.batch_norm(x, *used, training=False), x,
    )  # fmt: skip


@SOME
@given(st.data(), st.sampled_from(["dropout", "dropout1d", "dropout2d"]), st.floats(0.1, 0.9))
def test_what_dropout_leaves_keeps_its_mean(data, name, part):
    shape = {"dropout": (3, 2, 2), "dropout1d": (3, 2, 4), "dropout2d": (3, 2, 2, 2)}[name]
    x = torch.ones(shape)
    plain = Plain(torch.tensor(data.draw(seeds)))
    made = getattr(plain, name)(x, part)
    dropped = made == 0
    torch.testing.assert_close(made[~dropped], torch.full_like(made[~dropped], 1 / (1 - part)))
    if name != "dropout":  # whole channels
        flat = dropped.flatten(2)
        assert (flat == flat[:, :, :1]).all()
    assert getattr(plain, name)(x, part, training=False) is x


# ---- what takes the place of PyTorch's decompositions


@SOME
@given(st.data(), st.lists(st.integers(3, 5), min_size=1, max_size=3), st.floats(-2, 2))
def test_padding(data, shape, value):
    pad = data.draw(st.lists(st.integers(-1, 3), min_size=2, max_size=2 * len(shape)))
    pad = pad[: len(pad) // 2 * 2]
    agree(
        lambda x: translations.constant_pad(x, pad, value), lambda x: functional.pad(x, pad, value=value),
        values(data.draw, *shape),
    )  # fmt: skip


@SOME
@given(st.data(), st.lists(sizes, max_size=3), st.sampled_from([0.5, 1, 2]))
def test_powers(data, shape, exponent):
    agree(
        lambda x: translations.power(x, exponent),
        lambda x: x**exponent,
        values(data.draw, *shape).abs() + 0.1,
    )


@SOME
@given(st.data(), st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(1, 4))
def test_the_gradient_of_an_unfolding(data, shape, step):
    dim = data.draw(st.integers(0, len(shape) - 1))
    size = data.draw(st.integers(1, shape[dim]))
    gradient = torch.randn(torch.zeros(shape).unfold(dim, size, step).shape)
    expected = torch.ops.aten.unfold_backward(gradient, shape, dim, size, step)
    found = translations.unfold_backward(gradient, shape, dim, size, step)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
