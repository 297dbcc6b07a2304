"""Which version of the parameters to release: the one that the devices' own evaluations like best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marram.errors import MarramError
from marram.wire.messages import Metrics


class ChoiceError(MarramError):
    """No version can be released."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One version as the devices saw it, weighted by their held-out windows."""

    version: int
    devices: int
    count: int
    loss: float
    accuracy: float | None


def summarise(version: int, metrics: Sequence[Metrics]) -> Evaluated | None:
    """The fleet's mean over held-out windows; None when nobody had any."""
    metrics = [one for one in metrics if one.count > 0]
    count = sum(one.count for one in metrics)
    if count == 0:
        return None
    loss = sum(one.count * one.loss for one in metrics) / count
    rated = [one for one in metrics if one.accuracy is not None]
    accuracy = sum(one.count * (one.accuracy or 0.0) for one in rated) / count if rated else None
    return Evaluated(version, len(metrics), count, loss, accuracy)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Versions in a row whose mean is to be released. loss, accuracy: the mean of what devices measured."""

    versions: tuple[int, ...]
    devices: int
    loss: float
    accuracy: float | None


def stretch(evaluated: Sequence[Evaluated]) -> Stretch:
    """One or more evaluated versions as a stretch."""
    count = len(evaluated)
    rated = [one.accuracy for one in evaluated if one.accuracy is not None]
    return Stretch(
        versions=tuple(one.version for one in evaluated),
        devices=min(one.devices for one in evaluated),
        loss=sum(one.loss for one in evaluated) / count,
        accuracy=sum(rated) / count if len(rated) == count else None,
    )


def best(
    evaluations: Mapping[int, Sequence[tuple[str, Metrics]]], kept: Sequence[int], minimum: int, length: int
) -> Stretch:
    """The best stretch of ``length`` kept versions that at least ``minimum`` devices evaluated.

    By accuracy where the task has one, else by loss; of equals the newest. The mean of versions in a row is
    steadier than any one of them, which its last step may have thrown off (Polyak and Juditsky, 1992;
    Izmailov et al., arXiv 1803.05407). A stretch is at most a third of all, so that a young fleet's first
    versions are no part of it. Raises ChoiceError.
    """
    found = [
        summary
        for version in kept
        if (summary := summarise(version, [metrics for _, metrics in evaluations.get(version, ())]))
        is not None
        and summary.devices >= minimum
    ]
    if not found:
        raise ChoiceError(
            f"no version has been evaluated by {minimum} devices yet; wait for a round to close"
        )
    length = min(length, -(-len(found) // 3))
    stretches = [stretch(found[start : start + length]) for start in range(len(found) - length + 1)]
    return max(
        stretches, key=lambda one: (one.accuracy if one.accuracy is not None else -one.loss, one.versions)
    )
