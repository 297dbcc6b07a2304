"""The seam of what is learnt: how a round's contributions are judged, and made into the next version.

Most models are vectors: a device sends a delta, an engine sums, a strategy steps. A forest grows: a device
sends trees, and the strategy sees each device's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from marram.bundle.forest import Layout
from marram.errors import WireError
from marram.wire import reasons
from marram.wire.codec.chain import Chain
from marram.wire.codec.seed import device_seed
from marram.wire.messages import Delta
from marram.wire.parameters import Vector
from marram.wire.trees import Contribution, decode, most_trees

from marram_cloud.engines.engine import DeltaReference, Engine
from marram_cloud.ledger.ledger import Ledger, Round, Version
from marram_cloud.rounds.intake import decode_delta
from marram_cloud.strategies.forest import Forest
from marram_cloud.strategies.strategy import Strategy
from marram_cloud.strategies.strategy import Vector as Exact


@dataclass(frozen=True, slots=True)
class Merged:
    """The next version, float64 (P,). count, weight: how many deltas are in it, and their windows."""

    parameters: Exact
    state: Exact | None
    count: int
    weight: int


class Merging(Protocol):
    """One kind of contributions."""

    @property
    def whole(self) -> bool:
        """Whether versions are published as they are: an update would not keep all of its bits."""
        ...

    def judge(self, round: Round, device: str, delta: Delta) -> None:
        """Raise WireError(BAD_VALUES, MALFORMED) unless it can be part of the open round."""
        ...

    def merge(self, round: Round, latest: Version) -> Merged:
        """Of all deltas that the ledger has for the round."""
        ...


@dataclass(frozen=True)
class VectorMerging:
    """Deltas of parameters. size: P. max_norm: the largest L2 norm of one."""

    ledger: Ledger
    engine: Engine
    strategy: Strategy
    size: int
    max_norm: float
    whole: bool = False

    def judge(self, round: Round, device: str, delta: Delta) -> None:
        """See ``Merging``. Decoded here only to judge its values; the sum reads it from the ledger again."""
        decode_delta(round.chain, delta.payload, self.size, device_seed(round.seed, device), self.max_norm)

    def merge(self, round: Round, latest: Version) -> Merged:
        """See ``Merging``."""
        mean = self.engine.weighted_mean(self._references(round), self.size)
        target, state = self.strategy.step(latest.exact, mean.mean, latest.state)
        return Merged(target, state, mean.count, mean.weight)

    def _references(self, round: Round) -> Iterator[DeltaReference]:
        for device, samples in self.ledger.delta_devices(round.number):

            def load(device: str = device) -> Vector:
                payload = self.ledger.delta_payload(round.number, device)
                return Chain.parse(round.chain).decode(payload, self.size, device_seed(round.seed, device))

            yield DeltaReference(device, samples, load)


@dataclass(frozen=True)
class ForestMerging:
    """Trees, and what devices say of the forest's."""

    ledger: Ledger
    strategy: Forest
    layout: Layout
    whole: bool = True

    def judge(self, round: Round, device: str, delta: Delta) -> None:
        """See ``Merging``."""
        told = self._decoded(round, delta.payload)
        if told.count != delta.before.count:
            raise WireError(
                reasons.BAD_VALUES,
                f"judges trees on {told.count} windows, and the forest on {delta.before.count}",
            )

    def merge(self, round: Round, latest: Version) -> Merged:
        """See ``Merging``."""
        devices = self.ledger.delta_devices(round.number)
        told = {
            device: self._decoded(round, self.ledger.delta_payload(round.number, device))
            for device, _ in devices
        }
        forest, state = self.strategy.merge(self.layout, latest.exact, told, latest.state)
        return Merged(forest, state, len(devices), sum(samples for _, samples in devices))

    def _decoded(self, round: Round, payload: bytes) -> Contribution:
        trees = self.layout.count(self.ledger.parameters(round.version))
        return decode(payload, self.layout.room, most_trees(round.chain), trees)
