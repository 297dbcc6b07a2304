"""A real release repository on disk, with all of its keys at hand."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from marram_cloud.releases.repository import keys
from marram_cloud.releases.repository.create import Quorums, create
from marram_cloud.releases.repository.layout import Layout
from marram_cloud.releases.repository.offline import OfflineRepository
from marram_cloud.releases.repository.online import OnlineRepository
from marram_cloud.releases.repository.rotation import rotate
from marram_cloud.releases.rollout.audience import Audience
from marram_cloud.releases.rollout.store import RolloutStore

from tests.support.web import Server

MODEL = "shoulder"


@dataclass(frozen=True)
class Repository:
    """``folder`` holds repository/, offline/ and online/ keys, and root.json."""

    folder: Path

    @staticmethod
    def create(folder: Path, models: tuple[str, ...] = (MODEL,), now: datetime | None = None) -> Repository:
        made = Repository(folder)
        root = create(
            folder / "repository", folder / "offline", folder / "online", models, Quorums(), now or _now()
        )
        (folder / "root.json").write_bytes(root)
        return made

    @property
    def path(self) -> Path:
        return self.folder / "repository"

    @property
    def root(self) -> Path:
        return self.folder / "root.json"

    @property
    def layout(self) -> Layout:
        return Layout(self.path)

    @property
    def online(self) -> OnlineRepository:
        return OnlineRepository(self.layout, self.folder / "online")

    @property
    def rollouts(self) -> RolloutStore:
        return RolloutStore(self.online)

    def sign(self, content: bytes, version: str, kind: str = "marram", model: str = MODEL) -> None:
        """Sign a release with the offline keys, and publish it."""
        signers = keys.read_folder(self.folder / "offline")
        offline = OfflineRepository(self.layout)
        offline.sign(model, version, kind, content, signers, _now())  # type: ignore[arg-type]
        self.online.publish(_now())

    def promote(self, version: str, to: str = "all", model: str = MODEL) -> None:
        self._change(version, model, lambda old, found: old.promoted(found, Audience.parse(to), time.time()))

    def pause(self, version: str, model: str = MODEL) -> None:
        self._change(version, model, lambda old, found: old.paused(found.path, "by a test"))

    def revoke(self, version: str, model: str = MODEL) -> None:
        self._change(version, model, lambda old, found: old.revoked(found.sha256))

    def release(self, content: bytes, version: str, to: str = "all") -> None:
        """Sign, publish and promote."""
        self.sign(content, version)
        self.promote(version, to)

    def rotate_online(self) -> None:
        """New keys for all that is signed online."""
        offline, online, now = self.folder / "offline", self.folder / "online", _now()
        rotate(
            OfflineRepository(self.layout), "online", offline, online, replace=(), public=(), threshold=None,
            now=now,
        )  # fmt: skip
        self.online.publish(now)

    def _change(self, version: str, model: str, change: Any) -> None:
        self.rollouts.change(model, version, None, time.time(), change)

    @contextmanager
    def served(self, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
        """Over HTTP or HTTPS on this machine, with ranges."""
        server = Server(self.path, tls)
        try:
            yield server
        finally:
            server.stop()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
