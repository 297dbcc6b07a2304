"""How the updater puts a bundle in front of inference."""

from __future__ import annotations

from dataclasses import dataclass

from marram.bundle.file import Bundle
from marram.inference.model import int8_model
from marram.inference.pipeline import Pipeline
from marram.programs.program import ProgramOptions


@dataclass(frozen=True)
class Swap:
    """The pipeline, for ``marram.releases.updater.Inference``."""

    pipeline: Pipeline
    options: ProgramOptions

    @property
    def predicted(self) -> int:
        return self.pipeline.predicted

    @property
    def misbehaved(self) -> str:
        return self.pipeline.misbehaved

    def swap(self, bundle: Bundle, fallback: Bundle | None) -> None:
        model = int8_model(bundle, self.options)
        self.pipeline.swap(model, int8_model(fallback, self.options) if fallback is not None else None)

    def keep(self) -> None:
        self.pipeline.fallback = None
