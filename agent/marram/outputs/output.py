"""The seam to the sinks: an output is opened from its configuration and written by the inference thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from marram.inference.prediction import Prediction
from marram.registry import Name, Registry


class OutputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    """What every output has.

    name: what the output is called in status, by default its number and type; layers of the configuration
    merge outputs of one name.
    """

    name: Name | None = None


@dataclass(frozen=True, slots=True)
class OutputContext:
    """What an output may know of the daemon. device: its name. model: the model's name."""

    device: str = "device"
    model: str = "model"


class Output(Protocol):
    """One sink. An output that fails raises OutputError; the daemon counts it and goes on."""

    def write(self, predictions: Sequence[Prediction]) -> None: ...

    def close(self) -> None: ...


OUTPUTS: Registry[OutputConfig, Output] = Registry("marram.outputs", "marram.outputs", OutputConfig)
