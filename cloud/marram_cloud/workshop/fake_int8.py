"""Quantisation-aware training: the module learns with weights and layer inputs rounded as in int8.

Gradients pass the rounding as if it were not there (Jacob et al., arXiv 1712.05877).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from marram_cloud.workshop.tuning import Lessons, tune

_AXES: dict[type[nn.Module], int] = {nn.Conv1d: 0, nn.Conv2d: 0, nn.Linear: 0}
_TINY = 1e-8
_KEPT = 0.95  # of the range so far, at each step


def tune_for_int8(module: nn.Module, lessons: Lessons, teacher: nn.Module) -> nn.Module:
    """A copy of the module, trained as if in int8."""
    learnt, made = copy.deepcopy(module), copy.deepcopy(module)
    with fake_int8(learnt):
        tune(learnt, lessons, teacher)
    # Taking the parametrisations away leaves a layer's parameters in another order.
    made.load_state_dict(learnt.state_dict())
    return made


@contextmanager
def fake_int8(module: nn.Module) -> Iterator[None]:
    """Inside, the module computes as if in int8; behind it, its weights are plain float32 again."""
    layers = [one for one in module.modules() if type(one) in _AXES]
    hooks = []
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _Weight(_AXES[type(layer)]))
        hooks.append(layer.register_forward_pre_hook(_Activation()))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


class _Weight(nn.Module):
    """Symmetric, per output channel."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        others = [axis for axis in range(weight.dim()) if axis != self.axis]
        scales = (weight.detach().abs().amax(dim=others) / 127).clamp(min=_TINY)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, self.axis, -127, 127)


class _Activation:
    """uint8 per tensor, with a range that follows what comes."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0

    def __call__(self, layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = given[0]
        low, high = min(0.0, float(x.detach().min())), max(0.0, float(x.detach().max()))
        self.low = min(low, _KEPT * self.low + (1 - _KEPT) * low)
        self.high = max(high, _KEPT * self.high + (1 - _KEPT) * high)
        scale = max((self.high - self.low) / 255, _TINY)
        zero = min(255, max(0, round(-self.low / scale)))
        return (torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255), *given[1:])
