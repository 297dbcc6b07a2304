"""Quantisation-aware training: the module learns with weights and layer inputs rounded as in int8.

Gradients pass the rounding as if it were not there (Jacob et al., arXiv 1712.05877). Every other batch is not
rounded. It measures the ranges: they come from float values, as those of the program will, not from values
that are rounded already. And the module stays as good in float, where devices go on training it.
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
_KEPT = 0.95  # of the range so far, at each batch in float


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
    """Inside, the module computes by turns in float, first, and as if in int8; behind it, its weights are
    plain float32 again."""
    layers = [one for one in module.modules() if type(one) in _AXES]
    turns = _Turns()
    hooks = [module.register_forward_pre_hook(turns)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _Weight(_AXES[type(layer)], turns))
        hooks.append(layer.register_forward_pre_hook(_Activation(turns)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


class _Turns:
    """Whether the batch that is computed is rounded."""

    def __init__(self) -> None:
        self.rounded = True

    def __call__(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.rounded = not self.rounded


class _Weight(nn.Module):
    """Symmetric, per output channel."""

    def __init__(self, axis: int, turns: _Turns) -> None:
        super().__init__()
        self._axis, self._turns = axis, turns

    def forward(self, weight: Tensor) -> Tensor:
        if not self._turns.rounded:
            return weight
        others = [axis for axis in range(weight.dim()) if axis != self._axis]
        scales = (weight.detach().abs().amax(dim=others) / 127).clamp(min=_TINY)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, self._axis, -127, 127)


class _Activation:
    """uint8 per tensor, with a moving average of the batches' ranges."""

    def __init__(self, turns: _Turns) -> None:
        self._turns = turns
        self._begun, self._low, self._high = False, 0.0, 0.0

    def __call__(self, layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = given[0]
        if not self._turns.rounded:
            self._follow(x.detach())
            return given
        scale = max((self._high - self._low) / 255, _TINY)
        zero = min(255, max(0, round(-self._low / scale)))
        return (torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255), *given[1:])

    def _follow(self, x: Tensor) -> None:
        low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
        kept = _KEPT if self._begun else 0.0
        self._low, self._high = (
            kept * before + (1 - kept) * now for before, now in ((self._low, low), (self._high, high))
        )
        self._begun = True
