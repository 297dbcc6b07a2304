"""What the model said of one window, in the form that outputs take."""

from __future__ import annotations

import msgspec


class Cause(msgspec.Struct, frozen=True):
    """One channel's part in an anomaly. share: 0 to 1 of the score's excess over normal."""

    channel: str
    share: float


class Prediction(msgspec.Struct, frozen=True, omit_defaults=True):
    """One window's prediction.

    start, end: of the window, seconds since the Unix epoch. label: the class, or "normal"/"anomaly".
    scores: by class. score, threshold, causes: of a reconstruct or forecast model; causes are the strongest
    first, and only there when the score is above the threshold. forecast: by channel, the samples that come
    after the window. latency_us: from the window being complete to its
    prediction, microseconds. repaired: cleaning changed a value of the window.
    """

    start: float
    end: float
    label: str
    model: str
    latency_us: float
    scores: dict[str, float] = {}
    score: float | None = None
    threshold: float | None = None
    causes: tuple[Cause, ...] = ()
    forecast: dict[str, list[float]] = {}
    repaired: bool = False
