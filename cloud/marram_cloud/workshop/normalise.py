"""Batch normalisation in training (Ioffe and Szegedy, arXiv 1502.03167), with its gradient in closed form.

Half as many passes over the activations as the gradient that follows from the parts of the formula.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def batch_norm(
    input: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(normalised, mean, variance, how many values each is of). input: (batch, channels, ...)."""
    count = torch.ones_like(input.detach().flatten(1)[:, 0]).sum() * math.prod(input.shape[2:])
    made, _, mean, variance, _ = _BatchNorm.apply(input, weight, bias, count, eps)
    return made, mean.detach(), variance.detach(), count


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor, count: Tensor, eps: float) -> tuple[Tensor, ...]:
        shape, axes = _shape(input)
        mean = input.sum(axes) / count
        centred = input - mean.reshape(shape)
        variance = (centred * centred).sum(axes) / count
        scale = torch.rsqrt(variance + eps)
        unit = centred * scale.reshape(shape)
        return unit * weight.reshape(shape) + bias.reshape(shape), unit, mean, variance, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
        _, unit, _, _, scale = output
        ctx.save_for_backward(inputs[1], inputs[3], unit, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        weight, count, unit, scale = ctx.saved_tensors
        gradient = gradients[0]
        shape, axes = _shape(gradient)
        of_bias, of_weight = gradient.sum(axes), (gradient * unit).sum(axes)
        factor = weight * scale
        of_input = (
            gradient * factor.reshape(shape)
            - unit * (factor * of_weight / count).reshape(shape)
            - (factor * of_bias / count).reshape(shape)
        )
        return of_input, of_weight, of_bias, None, None


def _shape(input: Tensor) -> tuple[tuple[int, ...], list[int]]:
    return (1, -1, *(1,) * (input.ndim - 2)), [0, *range(2, input.ndim)]
