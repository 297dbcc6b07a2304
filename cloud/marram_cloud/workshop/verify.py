"""Every exported program against PyTorch, before a bundle is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from marram.errors import MarramError
from marram.programs.program import Program, load
from numpy.typing import NDArray
from torch import Tensor

TOLERANCE = 1e-5
_BATCHES = (1, 7, 16, 32)
_FACTOR, _TRIES, _LAST_BITS = 4.0, 16, 1e-6


class DisagreementError(MarramError):
    """An exported program does not compute what PyTorch computes; no bundle is written."""


@dataclass
class Verifier:
    """Compares and keeps the largest difference by program, relative to the size of what is compared.

    ``TOLERANCE`` holds wherever PyTorch agrees with itself that well. Where a window stands at the kink of a
    ReLU, or AdamW divides a gradient that is nothing but rounding by its own size, it does not: there some
    values may be off, neither further nor many more of them than PyTorch's own are, when the windows change
    in their last bits.

    differences: the largest by program, without such values. unsettled: in how many cases of a program some
    value was of that kind.
    """

    differences: dict[str, float]
    unsettled: dict[str, int] = field(default_factory=dict)

    def program(
        self,
        name: str,
        onnx: bytes,
        function: Callable[..., tuple[Tensor, ...]],
        cases: list[dict[str, Tensor]],
    ) -> Program:
        """Raises DisagreementError beyond ``TOLERANCE``; returns the loaded program."""
        program = load(onnx, "onnx")
        worst = self.differences.get(name, 0.0)
        for case in cases:
            x = case["x"]
            expected = function(**case)
            if not all(bool(one.isfinite().all()) for one in expected):
                raise DisagreementError(
                    f"{name}: PyTorch itself gives NaN or infinity, after some steps or at once: lower "
                    "training.learning_rate, clip gradients with optimiser.clip, or normalise in the module; "
                    "no bundle is written"
                )
            found = program(**{key: np.asarray(value.numpy()) for key, value in case.items()})
            apart = [_apart(*pair) for pair in zip(expected, map(_tensor, found.values()), strict=True)]
            if any((one > TOLERANCE).any() for one in apart):
                self.unsettled[name] = self.unsettled.get(name, 0) + 1
                own = _own(function, case, expected)
                apart = [_excused(*pair) for pair in zip(apart, own, strict=True)]
            for key, one in zip(found, apart, strict=True):
                difference = float(one.max()) if one.numel() else 0.0
                worst = max(worst, difference)
                if not difference <= TOLERANCE:
                    raise DisagreementError(
                        f"{name}: output {key!r} differs from PyTorch by {difference:.2e}, more than the "
                        f"{TOLERANCE:.0e} allowed, on windows of shape {tuple(x.shape)}: see that forward "
                        "decides nothing in Python by its input's values or the batch's size; no bundle is "
                        "written"
                    )
        self.differences[name] = worst
        return program


def _tensor(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(array)


def _apart(wanted: Tensor, found: Tensor) -> Tensor:
    """How far every value is from what is wanted, relative to the largest of these, or to 1 at least."""
    want = wanted.detach().double()
    if not want.numel():
        return want
    return (want - found.detach().double()).abs() / torch.clamp(want.abs().max(), min=1.0)


@dataclass(frozen=True)
class _Spread:
    """Of one output when the windows change in their last bits: the largest difference, and how many values
    differ by more than ``TOLERANCE``."""

    largest: float
    many: int


def _own(
    function: Callable[..., tuple[Tensor, ...]], case: dict[str, Tensor], expected: tuple[Tensor, ...]
) -> list[_Spread]:
    """How far PyTorch is from itself in this case, by output."""
    chance = torch.Generator().manual_seed(0)
    x = case["x"]
    found: list[list[_Spread]] = []
    for _ in range(_TRIES):
        other = x * (1 + _LAST_BITS * torch.randn(x.shape, generator=chance))
        found.append(
            [_spread(_apart(*pair)) for pair in zip(expected, function(**{**case, "x": other}), strict=True)]
        )
    return [
        _Spread(max(one.largest for one in tries), max(one.many for one in tries))
        for tries in zip(*found, strict=True)
    ]


def _spread(apart: Tensor) -> _Spread:
    return _Spread(float(apart.max()) if apart.numel() else 0.0, int((apart > TOLERANCE).sum()))


def _excused(apart: Tensor, own: _Spread) -> Tensor:
    """Without the values that are off, where PyTorch's own are off as far and about as many."""
    found = _spread(apart)
    if found.largest <= _FACTOR * own.largest and found.many <= _FACTOR * own.many:
        return torch.where(apart > TOLERANCE, 0.0, apart)
    return apart


def batches(windows: Tensor, classes: int, seed: int, least: int = 1) -> list[dict[str, Tensor]]:
    """Random and real windows with labels and weights, some of them 0: {x, y?, weight} per case.

    least: windows in a batch; a BatchNorm in training says nothing of one.
    """
    generator = torch.Generator().manual_seed(seed)
    cases = []
    for size in (max(size, least) for size in _BATCHES):
        chosen = windows[torch.randint(0, len(windows), (size,), generator=generator)]
        spread = windows.std(dim=(0, *range(2, windows.ndim)), correction=0, keepdim=True)
        noise = torch.randn(chosen.shape, generator=generator) * spread
        for x in (chosen, chosen + noise):
            weight = (torch.rand(size, generator=generator) > 0.2).float()
            weight[0] = 1.0
            case = {"x": x, "weight": weight}
            if classes:
                case["y"] = torch.randint(0, classes, (size,), generator=generator)
            cases.append(case)
    return cases
