"""What a model may cost, and which of the candidates keep to it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from marram.errors import MarramError

from marram_cloud.compression.cost import Cost
from marram_cloud.compression.quality import Quality

_NEAREST = 3


class BudgetError(MarramError):
    """Nothing keeps the budget, or it cannot be judged; the message says what would."""


class Candidate(msgspec.Struct, frozen=True):
    """One way to make the model small, measured.

    pruned: part of the channels that was to go. precision: "fp32", "int8", "mixed" (some layers in float),
    "int8 tuned" (trained for int8), or "LiteRT int8" (another's form for LiteRT). bytes: of the program.
    macs: multiply-accumulates a window. cost: of one window. difference: mean, of its outputs from those of
    its own fp32, relative. loss: by how much its quality is worse than the unpruned fp32 model's (points of
    accuracy, or growth of the score); None without windows to judge by. kept_float: the layers in float.
    """

    pruned: float
    precision: str
    bytes: int
    parameters: int
    macs: int
    cost: Cost
    quality: Quality | None
    difference: float
    loss: float | None
    kept_float: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For people: "int8, 50 % pruned"."""
        return f"{self.precision}, {self.pruned:.0%} pruned" if self.pruned else self.precision

    def __str__(self) -> str:
        said = f"{self.name}: {self.bytes} bytes, {self.cost.p50:.0f} us"
        return said if self.loss is None else f"{said}, loss of accuracy {self.loss:.4f}"


class Budget(msgspec.Struct, frozen=True):
    """bytes: of the program that infers. latency: microseconds a window, median on one thread here. loss: of
    accuracy in points (0.01 is one in a hundred), of other models the relative growth of their score."""

    bytes: int | None = None
    latency: float | None = None
    loss: float | None = None

    def __post_init__(self) -> None:
        """Raises BudgetError for a limit that means nothing."""
        if not (self.bytes is None or self.bytes > 0):
            raise BudgetError(f"--max-bytes {self.bytes}: expected a number above 0")
        if not (self.latency is None or self.latency > 0):
            raise BudgetError(f"--max-latency-us {self.latency:g}: expected a number above 0")
        if not (self.loss is None or self.loss >= 0):
            raise BudgetError(f"--max-accuracy-loss {self.loss:g}: expected 0 or a number above, 0.01 say")

    def __bool__(self) -> bool:
        return any(one is not None for one in (self.bytes, self.latency, self.loss))

    def excess(self, one: Candidate) -> float:
        """By how much the candidate is too much, as parts of the limits; 0 if it keeps the budget."""
        parts = [0.0]
        if self.bytes is not None:
            parts.append(one.bytes / self.bytes - 1)
        if self.latency is not None:
            parts.append(one.cost.p50 / self.latency - 1)
        if self.loss is not None and one.loss is not None:
            # A tenth of accuracy too much counts like twice the bytes.
            parts.append(10 * (one.loss - self.loss))
        return sum(max(0.0, part) for part in parts)

    def fitting(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that keep the budget: the smallest first, or the fastest, where only a latency was asked for.

        Raises BudgetError with the nearest when none does.
        """
        fitting = [one for one in candidates if self.excess(one) == 0]
        if not fitting:
            nearest = sorted(candidates, key=self.excess)[:_NEAREST]
            lines = "".join(f"\n  {one}" for one in nearest)
            raise BudgetError(
                f"no model keeps {self}; nothing was written. The nearest:{lines}\n"
                "Allow more of what is short, give more training windows, or begin with a smaller module."
            )
        fastest = self.latency is not None and self.bytes is None
        return sorted(
            fitting, key=lambda one: (one.cost.p50, one.bytes) if fastest else (one.bytes, one.cost.p50)
        )

    def __str__(self) -> str:
        named = (
            ("--max-bytes", self.bytes), ("--max-latency-us", self.latency),
            ("--max-accuracy-loss", self.loss),
        )  # fmt: skip
        return " ".join(f"{name} {value:g}" for name, value in named if value is not None)


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The Pareto front: no other is better in one of bytes, time and loss and worse in none."""

    def measures(one: Candidate) -> tuple[float, float, float]:
        return one.bytes, one.cost.p50, one.difference if one.loss is None else one.loss

    def beaten(one: Candidate) -> bool:
        mine = measures(one)
        return any(
            measures(other) != mine and all(a <= b for a, b in zip(measures(other), mine, strict=True))
            for other in candidates
        )

    return [one for one in candidates if not beaten(one)]
