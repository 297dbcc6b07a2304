"""From samples to predictions: the stream, the bounded queue, the model, the outputs, the sample store.

Sensors call ``feed`` from their threads; one inference thread is in ``run``. The model is replaced between
two batches, so every window that was received is predicted, waiting, or counted as dropped.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from marram.errors import MarramError, ProgramError
from marram.inference.model import Model
from marram.inference.prediction import Prediction
from marram.inference.queue import WindowQueue
from marram.learning.store import SampleStore
from marram.outputs.output import Output
from marram.stream.blocks import Samples, Windows
from marram.stream.stream import Stream

log = logging.getLogger(__name__)

_LATENCIES = 4096
_IDLE = 5.0
_REST = 1.0
_AHEAD = 60.0


@dataclass
class Pipeline:
    """See the module's docstring. model: None until the device has trained one of its own.

    labels: the model's. fallback: predicts the windows on which a new model fails, and takes its place then.
    misbehaved: why that happened. shadow: sees windows that were predicted, or that no model could predict.
    duty: share of the time that the model may take. broken: why there is no model, or why it fails now.
    """

    stream: Stream
    labels: tuple[str, ...]
    queue: WindowQueue
    model: Model | None
    outputs: dict[str, Output]
    store: SampleStore | None
    max_batch: int
    predicted: int = 0
    failed: int = 0
    unscored: int = 0
    swaps: int = 0
    fallback: Model | None = None
    misbehaved: str = ""
    broken: str = ""
    duty: float = 1.0
    shadow: Callable[[Windows], None] | None = None
    output_errors: dict[str, int] = field(default_factory=dict)
    store_error: str = ""
    beat: float = field(default_factory=time.monotonic)
    last: Prediction | None = None
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    # In this order where more than one is held: windows go into the queue as they left the stream; what gives
    # a window its label is added, or the window stored, but not both at once; the stream takes one call.
    _order_lock: threading.Lock = field(default_factory=threading.Lock)
    _label_lock: threading.Lock = field(default_factory=threading.Lock)
    _stream_lock: threading.Lock = field(default_factory=threading.Lock)
    _outputs_lock: threading.Lock = field(default_factory=threading.Lock)
    _swap_lock: threading.Lock = field(default_factory=threading.Lock)

    def feed(self, sensor: str, samples: Samples, live: bool, stop: threading.Event) -> None:
        """Take samples of one sensor. Waits for room when the sensor is a replay."""
        with self._order_lock:
            with self._stream_lock:
                windows = self.stream.push(sensor, samples)
                ahead = 0.0 if live else self.stream.ahead(sensor)
            self._put(windows, live)
        while ahead > _AHEAD and not stop.wait(0.01):
            with self._stream_lock:
                ahead = self.stream.ahead(sensor)

    def ended(self, sensor: str) -> None:
        """A sensor has given all that it had."""
        with self._order_lock:
            with self._stream_lock:
                windows = self.stream.ended(sensor)
            self._put(windows, live=False)

    def label(self, label: str, start: float, end: float) -> bool:
        """Label the windows of a time span, those that are still to come as well; False if unknown."""
        with self._label_lock:
            with self._stream_lock:
                known = self.stream.label_track.add(label, start, end)
            if known and self.store is not None:
                self.store.label(self.labels.index(label), start, end, time.time())
        return known

    def swap(self, model: Model, fallback: Model | None = None) -> None:
        """Run this model from the next batch on."""
        with self._swap_lock:
            self.model, self.fallback, self.misbehaved, self.broken = model, fallback, "", ""
            self.swaps += 1
        log.info("inference runs %s", model.name)

    def renew(self, model: Model | None, fallback: Model | None, swaps: int) -> bool:
        """Run the same models, loaded another way; False if others have taken over since ``swaps``."""
        with self._swap_lock:
            if self.swaps != swaps or self.misbehaved:
                return False
            self.model, self.fallback = model, fallback
        return True

    def redirect(self, stream: Stream) -> None:
        """Have samples go through another stream from now on."""
        with self._order_lock:
            with self._stream_lock:
                windows = stream.go_on_from(self.stream)
                self.stream = stream
            self._put(windows, live=False)

    def tell_to(self, make: Callable[[], dict[str, Output]]) -> None:
        """Write predictions to what ``make`` gives from the next block on; if it raises, nothing changes.

        It is called between two blocks, so that what it opens is not written to by another at the same time.
        """
        with self._outputs_lock:
            self.outputs = make()
            self.output_errors = {name: self.output_errors.get(name, 0) for name in self.outputs}

    def run(self) -> None:
        """Predict until the queue is closed and empty."""
        while True:
            taken = self.queue.take(self.max_batch, _IDLE)
            self.beat = time.monotonic()
            if taken is None:
                if self.queue.closed:
                    return
                if self.store is not None:
                    self._keep(None)
                continue
            windows, arrived = taken
            self._predict(windows, arrived)
            if self.store is not None:
                self._keep(windows)
            self._rest(time.monotonic() - self.beat)

    def _rest(self, busy: float) -> None:
        """After ``busy`` s of work, as long as the duty wants; what comes meanwhile waits in the queue."""
        rest = busy * (1.0 / self.duty - 1.0)
        while rest > 0 and not self.queue.closed and self.duty < 1.0:
            self.beat = time.monotonic()
            self.queue.pause(min(rest, _REST))
            rest -= time.monotonic() - self.beat

    def _predict(self, windows: Windows, arrived: NDArray[np.float64]) -> None:
        model, fallback = self.model, self.fallback
        if model is None:
            if self.broken:
                self.failed += len(windows)
                self._show(windows)
            else:
                self.unscored += len(windows)
            return
        try:
            predictions = model.predict(windows, arrived)
        except ProgramError as error:
            if fallback is not None:
                log.error("%s fails, %s takes its place: %s", model.name, fallback.name, error)
                with self._swap_lock:
                    self.model, self.fallback, self.misbehaved = fallback, None, str(error)
                self._predict(windows, arrived)
                return
            self.failed += len(windows)
            self.broken = str(error)
            if self.failed == len(windows) or self.failed % 1000 < len(windows):
                log.error("%d windows could not be predicted so far: %s", self.failed, error)
            return
        self.broken = ""
        self._tell(predictions)
        self._show(windows)

    def _show(self, windows: Windows) -> None:
        if self.shadow is not None:
            self.shadow(windows)

    def latency_us(self) -> tuple[float, float]:
        """(median, 99th percentile) of the last predictions, microseconds from window complete to told."""
        latencies = sorted(self._latencies)
        if not latencies:
            return 0.0, 0.0
        return latencies[len(latencies) // 2], latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)]

    def _put(self, windows: Windows, live: bool) -> None:
        if len(windows):
            self.queue.put(windows, live)

    def _tell(self, predictions: list[Prediction]) -> None:
        self.predicted += len(predictions)
        self.last = predictions[-1]
        self._latencies.extend(prediction.latency_us for prediction in predictions)
        with self._outputs_lock:
            for name, output in self.outputs.items():
                try:
                    output.write(predictions)
                except Exception as error:
                    # Of its own making (OutputError) or not: the other outputs and inference go on.
                    seen = self.output_errors.get(name, 0)
                    self.output_errors[name] = seen + 1
                    if seen % 1000 == 0:
                        text = "output %s failed %d times: %s"
                        log.error(text, name, seen + 1, error, extra={"output": name})

    def _keep(self, windows: Windows | None) -> None:
        assert self.store is not None
        try:
            if windows is None:
                self.store.commit(time.time())
            else:
                with self._label_lock:
                    with self._stream_lock:
                        # Once more: a label may have been given while they waited in the queue.
                        windows = self.stream.labelled(windows)
                    self.store.add(windows, time.time())
            self.store_error = ""
        except (MarramError, sqlite3.Error) as error:
            if self.store_error != str(error):
                log.error("windows could not be stored: %s; the next ones may be better off", error)
            self.store_error = str(error)
