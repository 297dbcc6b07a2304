"""Batch normalisation in training (Ioffe and Szegedy, arXiv 1502.03167), with its gradient in closed form.

Half as many passes over the activations as what follows from the parts of the formula, and each by ONNX's own
BatchNormalization, which counts mean and variance, or scales and moves, in one pass.
"""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import opset18 as op
from torch import Tensor

from marram_cloud.workshop.convolution_sizes import Value
from marram_cloud.workshop.operators import define


def batch_norm(
    input: Tensor, weight: Tensor, bias: Tensor, count: Tensor, eps: float, number: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(normalised, mean, variance). input: (batch, channels, ...). count: () of values in a channel. number:
    another one for each in a program."""
    made: tuple[Tensor, Tensor, Tensor] = _BatchNorm.apply(input, weight, bias, count, eps, number)
    return made


def with_statistics(
    input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> Tensor:
    """Normalised by statistics that are given, each (channels,), and have no gradient."""
    made: Tensor = _WithStatistics.apply(input, weight, bias, mean, variance, eps)
    return made


class _WithStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        return _affine(input, weight, bias, mean, variance, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
        input, weight, _, mean, variance, ctx.eps = inputs
        ctx.save_for_backward(input, weight, mean, variance)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        input, weight, mean, variance = ctx.saved_tensors
        none, one = torch.zeros_like(mean), torch.ones_like(mean)
        axes = _all_but_channels(input)
        normalised = _affine(input, one, none, mean, variance, ctx.eps)
        of_input = _affine(gradient, weight, none, none, variance, ctx.eps)
        return of_input, (gradient * normalised).sum(axes), gradient.sum(axes), None, None, None


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
        made: tuple[Tensor, ...] = torch.ops.marram.batch_norm(*inputs)
        return made

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
        input, weight, _, count, ctx.eps, _ = inputs
        ctx.save_for_backward(input, weight, count, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        input, weight, count, mean, variance = ctx.saved_tensors
        gradient, axes = gradients[0], _all_but_channels(input)
        none, one = torch.zeros_like(mean), torch.ones_like(mean)
        scale = torch.rsqrt(variance + ctx.eps)
        centred = _affine(input, one, none, mean)
        of_bias, of_weight = gradient.sum(axes), (gradient * centred).sum(axes) * scale
        factor = weight * scale
        share = factor * (-1 / count)
        of_input = _affine(gradient, factor, share * of_bias, none) + _affine(
            centred, share * scale * of_weight, none, none
        )
        return of_input, of_weight, of_bias, None, None, None


def _affine(
    input: Tensor, gain: Tensor, offset: Tensor, mean: Tensor, variance: Tensor | None = None, eps: float = 0
) -> Tensor:
    """Each channel less its mean, times its gain, plus its offset; by its deviation first, if it has one."""
    made: Tensor = torch.ops.aten._native_batch_norm_legit_no_training(
        input, gain, offset, mean, torch.ones_like(mean) if variance is None else variance, 0.0, eps
    )[0]
    return made


def _all_but_channels(input: Tensor) -> list[int]:
    return [0, *range(2, input.ndim)]


def _normalised(
    input: Tensor, weight: Tensor, bias: Tensor, count: Tensor, eps: float, number: int
) -> tuple[Tensor, Tensor, Tensor]:
    variance, mean = torch.var_mean(input, _all_but_channels(input), correction=0)
    return _affine(input, weight, bias, mean, variance, eps), mean, variance


define(
    "batch_norm",
    "(Tensor input, Tensor weight, Tensor bias, Tensor count, float eps, int number)"
    " -> (Tensor, Tensor, Tensor)",
    _normalised, lambda input, weight, *_: (torch.empty_like(input), weight.clone(), weight.clone()),
)  # fmt: skip


def batch_norm_to_onnx(
    input: Value, weight: Value, bias: Value, count: Value, eps: float, number: int
) -> tuple[Value, Value, Value]:
    """ONNX's own in training. Its running statistics do not count, so those that it gives are the batch's.

    onnxruntime writes these into the memory of those that it is given, even where that is a constant or
    somebody else reads it: so they are no constants, and other numbers each time, for of two equal values
    onnxruntime makes one.
    """
    size = int(weight.shape[0])
    old = [op.Add(count, op.Constant(value_floats=[float(2 * number + one)] * size)) for one in (0, 1)]
    made, mean, variance = op.BatchNormalization(
        input, weight, bias, *old, epsilon=eps, momentum=0.0, training_mode=1
    )
    return made, mean, variance
