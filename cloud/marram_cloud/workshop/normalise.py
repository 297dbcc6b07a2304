"""Batch normalisation in training (Ioffe and Szegedy, arXiv 1502.03167), with its gradient in closed form.

Half as many passes over the activations as the gradient that follows from the parts of the formula, and each
by ONNX's own BatchNormalization, which scales and moves in one pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def batch_norm(
    input: Tensor, weight: Tensor, bias: Tensor, count: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(normalised, mean, variance). input: (batch, channels, ...). count: () of values in a channel."""
    made, _, mean, variance, _ = _BatchNorm.apply(input, weight, bias, count, eps)
    return made, mean.detach(), variance.detach()


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor, count: Tensor, eps: float) -> tuple[Tensor, ...]:
        axes = _all_but_channels(input)
        mean = input.sum(axes) / count
        centred = _affine(input, torch.ones_like(mean), -mean)
        variance = (centred * centred).sum(axes) / count
        scale = torch.rsqrt(variance + eps)
        return _affine(centred, scale * weight, bias), centred, mean, variance, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
        _, centred, _, _, scale = output
        ctx.save_for_backward(inputs[1], inputs[3], centred, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        weight, count, centred, scale = ctx.saved_tensors
        gradient = gradients[0]
        axes = _all_but_channels(gradient)
        of_bias, of_weight = gradient.sum(axes), (gradient * centred).sum(axes) * scale
        factor = weight * scale
        of_input = _affine(gradient, factor, -factor * of_bias / count) + _affine(
            centred, -factor * scale * of_weight / count, torch.zeros_like(factor)
        )
        return of_input, of_weight, of_bias, None, None


def _affine(input: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """Each channel times its gain, plus its offset."""
    nothing, one = torch.zeros_like(gain), torch.ones_like(gain)
    made: Tensor = torch.ops.aten._native_batch_norm_legit_no_training(
        input, gain, offset, nothing, one, 0.0, 0.0
    )[0]
    return made


def _all_but_channels(input: Tensor) -> list[int]:
    return [0, *range(2, input.ndim)]
