"""The aggregator's configuration, section by section; loaded and checked by ``marram.config.load``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from marram.config.values import BrokerUrl, Duration, ExistingFile, ExistingFolder, FolderPath
from marram.errors import WireError
from marram.wire import trees
from marram.wire.codec.chain import Chain
from marram.wire.messages import Steps

from marram_cloud.releases.repository.layout import Layout
from marram_cloud.releases.repository.online import OnlineRepository
from marram_cloud.releases.rollout.controller import Limits
from marram_cloud.rounds.coordinator import Rules
from marram_cloud.rounds.settings import AnyStrategy, RoundSettings
from marram_cloud.strategies.fedavg import FedAvg
from marram_cloud.strategies.forest import Forest

Count = Annotated[int, msgspec.Meta(ge=1)]
# No more than an offer may say, or every device refuses it.
Epochs = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Batch = Annotated[int, msgspec.Meta(ge=1, le=65536)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
PositiveDuration = Annotated[Duration, msgspec.Meta(gt=0)]
Problems = Iterable[tuple[tuple[str | int, ...], str]]

DEFAULT_CHAIN = "clip(10)|feedback|rotate(256)|quantise(1)"
DEFAULT_UPDATE_CHAIN = "rotate(256)|quantise(4)"


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Broker(_Section, frozen=True, kw_only=True):
    """The region's broker.

    url: its address.
    identity: folder with the aggregator's files, as ``marram-cloud init`` wrote them.
    """

    url: BrokerUrl
    identity: ExistingFolder


class Rounds(_Section, frozen=True, kw_only=True):
    """The rounds.

    minimum_devices: deltas that a round needs before it can close.
    deadline: how long a round waits for devices that are online.
    settle: how long a round stays open at least.
    grace: how long a device whose connection broke is still waited for.
    every: least time between the openings of two rounds.
    limit: rounds in all; without it there is no end.
    minimum_windows: windows that a device needs to take part.
    chain: how devices encode their deltas; not for a forest, whose devices send trees.
    update_chain: how new parameters are encoded against the version before; not for a forest.
    epochs: passes over a device's windows in a round.
    batch: windows a step.
    learning_rate: step size on the device.
    mu: weight of FedProx's proximal term; 0 for FedAvg.
    strategy: the rule that turns deltas into new parameters.
    snapshot_every: versions between two full snapshots.
    max_norm: deltas with a larger L2 norm are refused.
    max_windows: deltas that claim more windows than this are refused; windows are a device's weight.
    ranges: ask devices for the ranges of the model's activations, on which a release's int8 rests.
    ranges_limit: a device clips a range that goes further from 0; refused if it does not.
    """

    minimum_devices: Count = 2
    deadline: PositiveDuration = 300.0
    settle: Duration = 1.0
    grace: Duration = 5.0
    every: Duration = 0.0
    limit: Count | None = None
    minimum_windows: Count = 16
    chain: str = DEFAULT_CHAIN
    update_chain: str = DEFAULT_UPDATE_CHAIN
    epochs: Epochs = 3
    batch: Batch = 16
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 0.05
    mu: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    strategy: AnyStrategy = FedAvg(rate=1.0, momentum=0.5)
    snapshot_every: Count = 10
    max_norm: Annotated[float, msgspec.Meta(gt=0)] = 1000.0
    max_windows: Count = 100_000
    ranges: bool = True
    ranges_limit: Annotated[float, msgspec.Meta(gt=0, le=1e30)] = 1e6

    def problems(self) -> Problems:
        """Chains that are none."""
        for name, spec in (("chain", self.chain), ("update_chain", self.update_chain)):
            try:
                chain = Chain.parse(spec)
            except WireError as error:
                yield (name,), f"expected a codec chain, found {error}"
                continue
            if name == "update_chain" and chain.feedback:
                yield (name,), "expected no feedback: the aggregator itself keeps what an update left out"

    def settings(self) -> RoundSettings:
        """As the service takes them."""
        return RoundSettings(
            rules=Rules(self.minimum_devices, self.deadline, self.settle, self.grace),
            steps=Steps(self.epochs, self.batch, self.learning_rate, self.mu),
            chain=trees.chain(self.strategy.trees) if isinstance(self.strategy, Forest) else self.chain,
            update_chain=self.update_chain,
            strategy=self.strategy,
            minimum_samples=self.minimum_windows,
            every=self.every,
            limit=self.limit,
            snapshot_every=self.snapshot_every,
            max_norm=self.max_norm,
            max_windows=self.max_windows,
            ranges_limit=self.ranges_limit if self.ranges else None,
        )


class FleetRanges(_Section, frozen=True, kw_only=True):
    """int8 by what devices see.

    devices: so many must have told their ranges, else the calibration windows count.
    trim: part of the devices, those that went furthest, whose word does not count; at least one.
    """

    devices: Annotated[int, msgspec.Meta(ge=3)] = 5
    trim: Annotated[float, msgspec.Meta(ge=0, le=0.49)] = 0.2


class Releases(_Section, frozen=True, kw_only=True):
    """Releases.

    repository: the release repository, as ``marram-cloud init`` made it.
    keys: folder with the online keys of it.
    failures: a roll-out stops when more than this part of the devices that finished went back.
    enough: part of a stage's devices that are online which must run a release before its next stage.
    calibration: windows (.npz) that int8 ranges are measured on, for ``marram-cloud release build``.
    average: most versions in a row whose mean is built; 1 for a single version.
    ranges: int8 by what devices see.
    """

    repository: ExistingFolder
    keys: ExistingFolder
    failures: Share = 0.1
    enough: Share = 0.9
    calibration: ExistingFile | None = None
    average: Count = 10
    ranges: FleetRanges = FleetRanges()

    def limits(self) -> Limits:
        """As the controller takes them."""
        return Limits(self.failures, self.enough)

    def online_repository(self) -> OnlineRepository:
        """The repository with its online keys."""
        return OnlineRepository(Layout(self.repository), self.keys)


class Aggregator(_Section, frozen=True, kw_only=True):
    """The configuration of one region's aggregator.

    bundle: the bundle that devices train.
    state: folder for the ledger.
    broker: the region's broker.
    crl: the authority's list of revoked certificates (``ca.crl`` of the fleet's folder). It is honoured and
    published, and read again whenever it changes; without it only what the ledger says counts.
    rounds: the rounds.
    releases: releases; without it this aggregator serves none.
    log_level: how much is logged.
    """

    bundle: ExistingFile
    state: FolderPath
    broker: Broker
    crl: ExistingFile | None = None
    rounds: Rounds = Rounds()
    releases: Releases | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
