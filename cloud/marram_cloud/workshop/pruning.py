"""Structured pruning: whole channels go, so that the module is really smaller and faster.

Which channels hang together is found by torch-pruning (Fang et al., "DepGraph", arXiv 2301.12900). Their
importance is the size of all their weights; between the steps the module learns again, from the windows and
from the unpruned module.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence

import torch
import torch_pruning
from torch import Tensor, nn

from marram_cloud.workshop.tuning import Lessons, tune

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
_TURNED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
_STEPS = 2
# Channels stay multiples of these where they can, as kernels work on blocks: the keyword spotter took 30 us
# with 32 of 64 channels, and 77 us with 31.
_BLOCKS = (8, 4)
_NEAR = 0.25
_HAIR = 1e-6  # torch-pruning rounds what is left down


def prune(module: nn.Module, ratio: float, lessons: Lessons, teacher: nn.Module) -> nn.Module | None:
    """A pruned, trained copy with about ``ratio`` of the channels gone; None where nothing can go.

    Layers whose channels cannot go without another output, or that the module's own code needs as they are,
    stay whole.
    """
    example = lessons.functions.seen(lessons.x[:2])
    whole = _channels(module)
    smaller: nn.Module | None = None
    for step in range(1, _STEPS + 1):
        before, wanted = smaller or module, 1 - ratio * step / _STEPS
        targets = {name: _target(count, wanted) for name, count in whole.items()}
        found = _cut(before, example, targets, _fixed(before, example, targets))
        if found is not None:  # a step that is too small for any channel makes the next one larger
            smaller = found
            tune(smaller, lessons, teacher)
    return smaller


def _target(channels: int, part: float) -> int:
    """How many of the channels to leave: a multiple of a block near the part, where there is one."""
    wanted = channels * part
    for block in _BLOCKS:
        near = max(1, round(wanted / block)) * block
        if near < channels and abs(near - wanted) <= _NEAR * wanted:
            return near
    return max(1, round(wanted))


def _channels(module: nn.Module) -> dict[str, int]:
    """Outputs of every layer that can be cut, by its name."""
    return {
        name: layer.weight.shape[1 if isinstance(layer, _TURNED) else 0]
        for name, layer in module.named_modules()
        if isinstance(layer, _LAYERS)
    }


def _fixed(module: nn.Module, example: Tensor, targets: Mapping[str, int]) -> list[str]:
    """Names of the layers that have to keep their outputs: as few of the last ones as it works with."""
    names = list(targets)
    fixed: list[str] = []
    while _cut(module, example, targets, fixed) is None and len(fixed) < len(names):
        fixed.append(names[-1 - len(fixed)])
    for name in fixed[:-1]:
        fewer = [one for one in fixed if one != name]
        if _cut(module, example, targets, fewer) is not None:
            fixed = fewer
    return fixed


def _cut(
    module: nn.Module, example: Tensor, targets: Mapping[str, int], fixed: Sequence[str]
) -> nn.Module | None:
    """A copy without the least important channels; None if it fails, differs in shape or is no smaller."""
    made = copy.deepcopy(module).eval()
    layers = dict(made.named_modules())
    wanted = _shapes(made, example)
    ratios = {
        layers[name]: max(0.0, (count - targets[name]) / count - _HAIR)
        for name, count in _channels(made).items()
        if name not in fixed
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch_pruning.pruner.BasePruner(
                made, example, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=0.0, pruning_ratio_dict=ratios, ignored_layers=[layers[name] for name in fixed],
                # Its own defaults are dicts that all its objects share and write to.
                in_channel_groups={}, out_channel_groups={}, num_heads={},
            ).step()  # fmt: skip
        same = _shapes(made, example) == wanted
    except Exception:  # the module's own code, with layers that it did not expect
        return None
    return made.train() if same and _size(made) < _size(module) else None


def _shapes(module: nn.Module, example: Tensor) -> list[tuple[int, ...]]:
    with torch.no_grad():
        made = module(example)
    return [tuple(one.shape) for one in (made if isinstance(made, tuple) else (made,))]


def _size(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())
