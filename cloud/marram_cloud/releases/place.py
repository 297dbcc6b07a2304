"""Where a command finds repository, online keys and the aggregator's state: by flags, else by the YAML."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from marram.config.load import load

from marram_cloud.aggregator import open_ledger
from marram_cloud.config.schema import Aggregator
from marram_cloud.releases.online.reports import Reports, open_reports
from marram_cloud.releases.repository.errors import RepositoryError
from marram_cloud.releases.repository.layout import Layout
from marram_cloud.releases.repository.offline import OfflineRepository
from marram_cloud.releases.repository.online import OnlineRepository
from marram_cloud.releases.rollout.store import RolloutStore


@dataclass(frozen=True)
class Place:
    """online: folder of the online keys. config: the aggregator's, where it was given."""

    layout: Layout
    online: Path | None
    config: Aggregator | None

    @staticmethod
    def of(config: Path | None, repository: Path | None, online: Path | None) -> Place:
        """Raises RepositoryError, ConfigError."""
        loaded = None if config is None else load(config, Aggregator)
        section = None if loaded is None else loaded.releases
        repository = repository or (None if section is None else section.repository)
        if repository is None:
            raise RepositoryError(
                "which repository? Give --repository, or with -c a YAML file that has a section `releases`"
            )
        return Place(Layout(repository), online or (None if section is None else section.keys), loaded)

    @property
    def offline_repository(self) -> OfflineRepository:
        return OfflineRepository(self.layout)

    @property
    def online_repository(self) -> OnlineRepository:
        """Raises RepositoryError where the online keys were not named."""
        if self.online is None:
            raise RepositoryError("the online keys are needed: give --online FOLDER, or -c the YAML file")
        return OnlineRepository(self.layout, self.online)

    @property
    def rollouts(self) -> RolloutStore:
        return RolloutStore(self.online_repository)

    def devices(self) -> tuple[Collection[str], Reports | None]:
        """Enrolled devices and reports, of the aggregator's state; nothing without a YAML file."""
        if self.config is None:
            return (), None
        enrolled = [name for name, _, revoked in open_ledger(self.config).devices() if not revoked]
        return enrolled, open_reports(self.config.state)
