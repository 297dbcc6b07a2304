"""Every exported program against PyTorch, before a bundle is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from marram.errors import MarramError
from marram.programs.program import Program, load
from torch import Tensor

TOLERANCE = 1e-5
_BATCHES = (1, 7, 16, 32)
_FACTOR, _TRIES, _LAST_BITS = 4.0, 8, 1e-6


class DisagreementError(MarramError):
    """An exported program does not compute what PyTorch computes; no bundle is written."""


@dataclass
class Verifier:
    """Compares and keeps the largest difference by program, relative to the size of what is compared.

    ``TOLERANCE`` holds wherever PyTorch agrees with itself that well. Where a window stands at the kink of a
    ReLU or between two equal maxima it does not: there a program may be as far from PyTorch's result as
    PyTorch is, when the windows change in their last bits.
    """

    differences: dict[str, float]

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
            expected = function(**case)
            found = program(**{key: np.asarray(value.numpy()) for key, value in case.items()})
            for place, (output, (key, value)) in enumerate(zip(expected, found.items(), strict=True)):
                difference = _difference(output, torch.from_numpy(value))
                if difference > TOLERANCE and difference <= _FACTOR * _own(function, case)[place]:
                    continue
                worst = max(worst, difference)
                if not difference <= TOLERANCE:
                    size = next(iter(case.values())).shape
                    raise DisagreementError(
                        f"{name}: output {key!r} differs from PyTorch by {difference:.2e}, more than the "
                        f"{TOLERANCE:.0e} allowed (first input {tuple(size)}); no bundle is written"
                    )
        self.differences[name] = worst
        return program


def _difference(wanted: Tensor, found: Tensor) -> float:
    """The largest of a tensor, relative to its largest value, or to 1 where that is less."""
    want = wanted.detach().double()
    scale = torch.clamp(want.abs().max(), min=1.0) if want.numel() else 1.0
    return float(((want - found.detach().double()).abs() / scale).max()) if want.numel() else 0.0


def _own(function: Callable[..., tuple[Tensor, ...]], case: dict[str, Tensor]) -> list[float]:
    """How far PyTorch is from itself in this case, by output."""
    expected = function(**case)
    chance = torch.Generator().manual_seed(0)
    x = case["x"]
    others = [x * (1 + _LAST_BITS * torch.randn(x.shape, generator=chance)) for _ in range(_TRIES)]
    worst = [0.0] * len(expected)
    for other in others:
        again = function(**{**case, "x": other})
        worst = [max(old, _difference(*pair)) for old, *pair in zip(worst, expected, again, strict=True)]
    return worst


def batches(windows: Tensor, classes: int, seed: int, least: int = 1) -> list[dict[str, Tensor]]:
    """Random and real windows with labels and weights, some of them 0: {x, y?, weight} per case.

    least: windows in a batch; a BatchNorm in training says nothing of one.
    """
    generator = torch.Generator().manual_seed(seed)
    cases = []
    for size in (max(size, least) for size in _BATCHES):
        chosen = windows[torch.randint(0, len(windows), (size,), generator=generator)]
        noise = torch.randn(chosen.shape, generator=generator) * windows.std(dim=(0, 2), keepdim=True)
        for x in (chosen, chosen + noise):
            weight = (torch.rand(size, generator=generator) > 0.2).float()
            weight[0] = 1.0
            case = {"x": x, "weight": weight}
            if classes:
                case["y"] = torch.randint(0, classes, (size,), generator=generator)
            cases.append(case)
    return cases
