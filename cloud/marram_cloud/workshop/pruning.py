"""Structured pruning: whole channels go, so that the module is really smaller and faster.

Which channels hang together is found by torch-pruning (Fang et al., "DepGraph", arXiv 2301.12900). Their
importance is the size of all their weights; between the steps the module learns again, from the windows and
from the unpruned module.
"""

from __future__ import annotations

import copy
import warnings

import torch
import torch_pruning
from torch import Tensor, nn

from marram_cloud.workshop.tuning import Lessons, tune

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
_STEPS = 2
# Channels stay multiples of these where they can, as kernels work on blocks: the keyword spotter took 30 us
# with 32 of 64 channels, and 77 us with 31.
_BLOCKS = (8, 4, 1)


def prune(module: nn.Module, ratio: float, lessons: Lessons, teacher: nn.Module) -> nn.Module | None:
    """A pruned, trained copy with about ``ratio`` of the channels gone; None where nothing can go.

    Layers whose channels cannot go without another output, or that the module's own code needs as they are,
    stay whole.
    """
    example = lessons.functions.seen(lessons.x[:2])
    smaller, left = None, 1.0
    for step in range(1, _STEPS + 1):
        before = smaller or module
        wanted = 1 - ratio * step / _STEPS
        part = 1 - wanted / left
        found = _cut(before, example, part, _fixed(before, example, part))
        if found is not None:  # a small step may be too small for whole blocks: the next is larger then
            smaller, left = found, wanted
            tune(smaller, lessons, teacher)
    return smaller


def _fixed(module: nn.Module, example: Tensor, ratio: float) -> list[str]:
    """Names of the layers that have to keep their outputs: as few of the last ones as it works with."""
    names = [name for name, layer in module.named_modules() if isinstance(layer, _LAYERS)]
    fixed: list[str] = []
    while _cut(module, example, ratio, fixed) is None and len(fixed) < len(names):
        fixed.append(names[-1 - len(fixed)])
    for name in fixed[:-1]:
        fewer = [one for one in fixed if one != name]
        if _cut(module, example, ratio, fewer) is not None:
            fixed = fewer
    return fixed


def _cut(module: nn.Module, example: Tensor, ratio: float, fixed: list[str]) -> nn.Module | None:
    """A copy without the least important channels; None if it fails, differs in shape or is no smaller."""
    for block in _BLOCKS:
        made = _without(module, example, ratio, fixed, block)
        enough = 1 - ratio / 2 if block > 1 else 1
        if made is not None and _size(made) < enough * _size(module):
            return made
    return None


def _without(
    module: nn.Module, example: Tensor, ratio: float, fixed: list[str], block: int
) -> nn.Module | None:
    made = copy.deepcopy(module).eval()
    layers = dict(made.named_modules())
    wanted = _shapes(made, example)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch_pruning.pruner.BasePruner(
                made, example, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=ratio, ignored_layers=[layers[name] for name in fixed], round_to=block,
                # Its own defaults are dicts that all its objects share and write to.
                in_channel_groups={}, out_channel_groups={}, num_heads={},
            ).step()  # fmt: skip
        same = _shapes(made, example) == wanted
    except Exception:  # the module's own code, with layers that it did not expect
        return None
    return made.train() if same else None


def _shapes(module: nn.Module, example: Tensor) -> list[tuple[int, ...]]:
    with torch.no_grad():
        made = module(example)
    return [tuple(one.shape) for one in (made if isinstance(made, tuple) else (made,))]


def _size(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())
