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


class DisagreementError(MarramError):
    """An exported program does not compute what PyTorch computes; no bundle is written."""


@dataclass
class Verifier:
    """Compares and keeps the largest difference by program, relative to the size of what is compared."""

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
            for output, (key, value) in zip(expected, found.items(), strict=True):
                want = output.detach().numpy()
                scale = max(1.0, float(np.abs(want).max(initial=0.0)))
                difference = float(np.abs(want - value).max(initial=0.0)) / scale
                worst = max(worst, difference)
                if not difference <= TOLERANCE:
                    size = next(iter(case.values())).shape
                    raise DisagreementError(
                        f"{name}: output {key!r} differs from PyTorch by {difference:.2e}, more than the "
                        f"{TOLERANCE:.0e} allowed (first input {tuple(size)}); no bundle is written"
                    )
        self.differences[name] = worst
        return program


def batches(windows: Tensor, classes: int, seed: int) -> list[dict[str, Tensor]]:
    """Random and real windows with labels and weights, some of them 0: {x, y?, weight} per case."""
    generator = torch.Generator().manual_seed(seed)
    cases = []
    for size in _BATCHES:
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
