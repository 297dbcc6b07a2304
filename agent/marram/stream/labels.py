"""Labels of windows: by a column of the samples, or by spans of time that a person or a message names.

One rule for both: a window has the label that holds for at least half of it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from marram.stream.blocks import UNLABELLED

Codes = NDArray[np.int16]
Times = NDArray[np.float64]

MAX_SPANS = 1024


class LabelEncoder:
    """Label names to indexes into the model's labels; counts the names that the model does not know."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.unknown = 0
        self._codes = {label: code for code, label in enumerate(labels)}

    def encode(self, labels: NDArray[np.str_] | None, count: int) -> Codes:
        """int16 (count,): indexes, ``UNLABELLED`` where there is no label or an unknown one."""
        codes = np.full(count, UNLABELLED, dtype=np.int16)
        if labels is None or not count:
            return codes
        # Labels come in long stretches: look each stretch up once.
        begins = np.flatnonzero(np.concatenate(([True], labels[1:] != labels[:-1])))
        lengths = np.diff(np.append(begins, count))
        stretch = [self._codes.get(str(label), UNLABELLED) for label in labels[begins]]
        for label, code, length in zip(labels[begins], stretch, lengths, strict=True):
            if code == UNLABELLED and label:
                self.unknown += int(length)
        return np.repeat(np.array(stretch, dtype=np.int16), lengths)


def majority(codes: Codes, length: int, stride: int) -> Codes:
    """int16 (windows,): the label of at least half the ticks of each window, else ``UNLABELLED``.

    codes: int16 (ticks,), windows of ``length`` from tick 0 every ``stride``.
    """
    count = (codes.size - length) // stride + 1
    best = np.full(count, UNLABELLED, dtype=np.int16)
    if codes.max(initial=UNLABELLED) == UNLABELLED:
        return best
    most = np.zeros(count, dtype=np.int64)
    for code in np.unique(codes[codes != UNLABELLED]):
        total = np.concatenate(([0], np.cumsum(codes == code)))
        ticks = (total[length:] - total[:-length])[::stride]
        wins = (2 * ticks >= length) & (ticks > most)
        best[wins], most[wins] = code, ticks[wins]
    return best


class LabelMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A label message: {"label": "ER", "from": t0, "to": t1}, times in seconds since the Unix epoch."""

    label: str
    start: float = msgspec.field(name="from")
    end: float = msgspec.field(name="to")


def parse_label(payload: bytes) -> LabelMessage:
    """Read a label message. Raises ValueError that says what is wrong."""
    try:
        message = msgspec.json.decode(payload, type=LabelMessage)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a label message: {error}") from error
    _check(message.start, message.end)
    return message


def _check(start: float, end: float) -> None:
    if not (math.isfinite(start) and math.isfinite(end) and start <= end):
        raise ValueError(f"a label's span must begin before it ends, found {start} to {end}")


@dataclass(frozen=True, slots=True)
class _Span:
    code: int
    start: float
    end: float


class LabelTrack:
    """Spans of time with a label, announced before or after their windows come.

    The newest ``capacity`` spans are kept; of two that both hold for a window, the one added last wins.
    """

    def __init__(self, labels: Sequence[str], capacity: int = MAX_SPANS) -> None:
        self.unknown = 0
        self._codes = {label: code for code, label in enumerate(labels)}
        self._spans: deque[_Span] = deque(maxlen=capacity)

    def add(self, label: str, start: float, end: float) -> bool:
        """Name a span, in seconds since the Unix epoch; False where the model does not know the label.

        Raises ValueError for a span that ends before it begins.
        """
        _check(start, end)
        code = self._codes.get(label)
        if code is None:
            self.unknown += 1
            return False
        self._spans.append(_Span(code, start, end))
        return True

    def label(self, start: Times, end: Times) -> Codes:
        """int16 (n,): the label of the windows from start to end (n,), ``UNLABELLED`` where none holds."""
        codes = np.full(start.size, UNLABELLED, dtype=np.int16)
        if not start.size:
            return codes
        first, last = float(start.min()), float(end.max())
        half = (end - start) / 2
        for span in self._spans:
            if span.start <= last and span.end >= first:
                overlap = np.minimum(end, span.end) - np.maximum(start, span.start)
                codes[(overlap >= half) & (overlap >= 0)] = span.code
        return codes
