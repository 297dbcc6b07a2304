"""How the updater puts a bundle in front of inference."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from marram.bundle.file import Bundle
from marram.errors import BundleError, ProgramError
from marram.inference.model import Model
from marram.inference.pipeline import Pipeline
from marram.releases.forms import Forms

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Swap:
    """The pipeline, for ``marram.releases.updater.Inference``."""

    pipeline: Pipeline
    forms: Forms

    @property
    def predicted(self) -> int:
        return self.pipeline.predicted

    @property
    def misbehaved(self) -> str:
        return self.pipeline.misbehaved

    def swap(self, bundle: Bundle, fallback: Bundle | None) -> None:
        self.pipeline.swap(self.forms.load(bundle), self._loaded(fallback))

    def _loaded(self, fallback: Bundle | None) -> Model | None:
        try:
            return self.forms.load(fallback) if fallback is not None else None
        except (BundleError, ProgramError) as error:  # it may be what this release heals
            log.error("nothing to fall back on: %s", error)
            return None

    def keep(self) -> None:
        self.pipeline.fallback = None
