"""What an aggregator's owner may set about its rounds."""

from __future__ import annotations

from typing import Annotated

import msgspec
from marram.wire.messages import Steps

from marram_cloud.rounds.coordinator import Rules
from marram_cloud.strategies.fedavg import FedAvg
from marram_cloud.strategies.forest import Forest

AnyStrategy = FedAvg | Forest


class RoundSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Resolved settings; the YAML's own form is in ``marram_cloud.config``.

    chain: how devices encode deltas. update_chain: how new parameters are encoded against the last
    version. every: seconds between two openings. limit: rounds in all, None for ever. snapshot_every:
    versions between two full snapshots. keep_versions: versions whose parameters can still be released.
    max_norm: the largest L2 norm that a delta may have. max_windows: the most windows that a device may say
    it trained on or measured with: they are its weight in the means. ranges_limit: the furthest from 0 that a
    device may say that an activation goes; None: no ranges are asked for.
    """

    rules: Rules
    steps: Steps
    chain: str
    update_chain: str
    strategy: AnyStrategy
    minimum_samples: int = 1
    every: float = 0.0
    limit: int | None = None
    snapshot_every: Annotated[int, msgspec.Meta(ge=1)] = 10
    keep_versions: Annotated[int, msgspec.Meta(ge=2)] = 200
    keep_payloads: int = 2
    max_norm: float = 1e3
    max_windows: int = 100_000
    ranges_limit: float | None = None
    part_size: int = 96 * 1024
    max_delta: int = 64 << 20
