"""The signed roll-out documents in a release repository, read and changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from marram.wire.rollout import Rollout
from tuf.api.metadata import Targets

from marram_cloud.releases.repository import targets
from marram_cloud.releases.repository.errors import RepositoryError
from marram_cloud.releases.repository.layout import ROLLOUT, Layout, State
from marram_cloud.releases.repository.online import OnlineRepository
from marram_cloud.releases.rollout.document import Document, Schedule


@dataclass(frozen=True)
class RolloutStore:
    """The documents of all models of one repository."""

    repository: OnlineRepository

    def change(
        self, model: str, version: str, kind: str | None, now: float,
        change: Callable[[Document, targets.Release], Document],
    ) -> Document:  # fmt: skip
        """Sign and publish a changed document, unless the change changes nothing.

        Raises RepositoryError when there is no such release; and what ``change`` raises.
        """
        layout = self.repository.layout
        with layout.lock():
            state = layout.load()
            release = targets.find(_model(state, model), model, version, kind)
            before = read(layout, state, model)
            after = change(before, release)
            if after != before:
                content = msgspec.json.encode(after.rollout)
                custom = {"stages": msgspec.to_builtins(after.schedules)}
                when = datetime.fromtimestamp(now, UTC)
                self.repository.put_target(state, _path(model), content, custom, when)
        return after


def read(layout: Layout, state: State, model: str) -> Document:
    """The document of a model as it is published; an empty one before the first promotion."""
    file = state.roles[ROLLOUT].signed.targets.get(_path(model))
    if file is None:
        return Document.empty(model)
    rollout = msgspec.json.decode(layout.read_target(file), type=Rollout)
    custom = file.custom or {}
    return Document(rollout, msgspec.convert(custom.get("stages", {}), dict[str, Schedule]))


def _model(state: State, model: str) -> Targets:
    if model not in state.models:
        known = ", ".join(state.models) or "none"
        raise RepositoryError(f"model {model!r} is not in the repository; published: {known}")
    return state.roles[model].signed


def _path(model: str) -> str:
    return f"{ROLLOUT}/{model}.json"
