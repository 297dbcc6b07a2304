"""The ``stream`` section of the configuration: gaps, missing values, and each channel's source and limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from marram.config.values import Duration

Missing = Literal["interpolate", "hold", "flag", "drop"]

Source = Annotated[str, msgspec.Meta(pattern=r"^[^.]+\..+$(?!\n)", examples=["watch.ax"])]


class ChannelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a sensor channel becomes a channel of the model: value * scale + offset, then the limits.

    source: sensor and channel ("watch.ax"); by default the one sensor channel that has the name.
    scale: factor from the sensor's unit to the model's.
    offset: added after the factor, in the model's unit.
    min: smallest plausible value, in the model's unit.
    max: largest plausible value, in the model's unit.
    out_of_range: what a value beyond min or max becomes: the limit, a missing value, or itself but flagged.
    stuck_after: the same raw value for longer than this is a stuck sensor; without it nothing is.
    stuck: whether a stuck value is kept and flagged, or counts as missing.
    """

    source: Source | None = None
    scale: float = 1.0
    offset: float = 0.0
    min: float | None = None
    max: float | None = None
    out_of_range: Literal["clip", "missing", "flag"] = "clip"
    stuck_after: Duration | None = None
    stuck: Literal["flag", "missing"] = "flag"

    def problems(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """Cross-field mistakes."""
        if self.min is not None and self.max is not None and self.min >= self.max:
            yield ("min",), f"expected min below max, found {self.min:g} and {self.max:g}"
        if self.scale == 0:
            yield ("scale",), "expected a number other than 0, found 0"


class StreamConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How samples become windows.

    max_gap: a longer gap in the samples ends the run of windows; a longer hole cannot be repaired.
    missing: what fills a missing value: a line between its neighbours, the value before it (both only up
    to max_gap, then the run ends), the value before it however long it lasts (flag), or nothing: the
    windows that it touches are dropped (drop).
    channels: by the model's channel names.
    """

    max_gap: Annotated[Duration, msgspec.Meta(gt=0)] = 2.0
    missing: Missing = "interpolate"
    channels: dict[str, ChannelConfig] = {}
