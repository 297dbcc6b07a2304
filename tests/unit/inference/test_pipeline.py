"""Samples to outputs: every window is predicted, waiting or counted, whatever fails or is swapped."""

import threading
import time

import numpy as np
import pytest
from marram.bundle.file import parse
from marram.errors import OutputError, ProgramError
from marram.inference import pipeline as pipelines
from marram.inference.model import Model, int8_model
from marram.inference.pipeline import Pipeline
from marram.inference.queue import WindowQueue
from marram.learning.store import SampleStore, StoreSettings
from marram.programs.program import ProgramOptions
from marram.stream.blocks import Samples
from marram.stream.config import StreamConfig
from marram.stream.stream import Stream

from tests.support import models

PATIENCE = 30.0


class Kept:
    """An output that keeps what it is told, or fails."""

    def __init__(self, error=None):
        self.predictions, self.error = [], error

    def write(self, predictions):
        if self.error is not None:
            raise self.error
        self.predictions += predictions

    def close(self):
        return None


def tiny(weight=1.0, version="1"):
    return int8_model(parse(models.bundle(models.classifier(weight), version=version)), ProgramOptions())


class Running:
    """A pipeline of the tiny model with its inference thread."""

    def __init__(self, model, limit=10_000, live=True, **outputs):
        sensors = {"s": models.CHANNELS}
        replays = () if live else ("s",)
        stream = Stream(models.CHANNELS, 10.0, 4, 4, models.LABELS, sensors, StreamConfig(), replays=replays)
        self.live, self.fed = live, 0
        self.pipeline = Pipeline(stream, models.LABELS, WindowQueue(limit), model, outputs, None, 16)
        self.thread = threading.Thread(target=self.pipeline.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.end()

    def feed(self, windows, value=1.0):
        count = 4 * windows
        time_ = (self.fed + np.arange(count)) / 10
        self.fed += count
        samples = Samples(time_, np.full((2, count), value, np.float32))
        self.pipeline.feed("s", samples, self.live, threading.Event())

    def end(self):
        self.pipeline.queue.close()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def test_predictions_reach_every_output_in_order():
    one, two = Kept(), Kept()
    with Running(tiny(), one=one, two=two) as running:
        running.feed(3, 1.0)
        running.feed(2, -1.0)
        running.end()
        pipeline = running.pipeline
    assert [p.label for p in one.predictions] == ["high"] * 3 + ["low"] * 2
    assert two.predictions == one.predictions
    assert pipeline.last == one.predictions[-1]
    assert (pipeline.predicted, pipeline.queue.received, pipeline.failed) == (5, 5, 0)
    assert pipeline.latency_us()[1] >= pipeline.latency_us()[0] > 0


@pytest.mark.parametrize("live", [True, False])
def test_a_swap_loses_no_window(live):
    """Windows are counted under continuous feeding with a swap between any two batches."""
    kept = Kept()
    candidates = [tiny(1.0, "1"), tiny(-1.0, "2"), tiny(2.0, "3")]
    with Running(candidates[0], limit=2000 if live else 50, live=live, out=kept) as running:
        for number in range(400):
            running.pipeline.swap(candidates[number % 3])
            running.feed(5)
            if live:
                while len(running.pipeline.queue) > 200:
                    time.sleep(0.001)
        running.end()
        pipeline = running.pipeline
    assert pipeline.swaps == 400
    assert (pipeline.queue.received, pipeline.queue.dropped, pipeline.failed, pipeline.unscored) == (
        2000,
        0,
        0,
        0,
    )
    assert [p.start for p in kept.predictions] == pytest.approx([0.4 * n for n in range(2000)])
    assert {p.model for p in kept.predictions} == {"tiny 1", "tiny 2", "tiny 3"}
    # Each prediction is wholly of one model: the second one turns the labels around.
    assert {(p.model, p.label) for p in kept.predictions} == {
        ("tiny 1", "high"),
        ("tiny 2", "low"),
        ("tiny 3", "high"),
    }


def test_a_slow_model_drops_the_oldest_live_windows_and_counts_them():
    gate, kept = threading.Event(), Kept()
    quick = tiny()

    def slow(x):
        gate.wait(PATIENCE)
        return quick.run(x)

    with Running(Model(quick.manifest, "slow", slow), limit=20, out=kept) as running:
        for _ in range(30):
            running.feed(2)
        gate.set()
        running.end()
        queue = running.pipeline.queue
    assert queue.received == 60
    assert queue.dropped >= 60 - 20 - 16
    assert len(kept.predictions) == 60 - queue.dropped
    assert kept.predictions[-1].start == pytest.approx(0.4 * 59)


def test_windows_that_are_behind_are_predicted_in_batches():
    batches, quick = [], tiny()

    def counting(x):
        batches.append(len(x))
        return quick.run(x)

    running = Running(Model(quick.manifest, "counting", counting))
    running.feed(40)
    with running:
        running.end()
    assert batches == [16, 16, 8]


def test_without_a_model_windows_are_counted_and_a_swap_begins_to_predict():
    kept = Kept()
    with Running(None, out=kept) as running:
        running.feed(3)
        while running.pipeline.unscored < 3:
            time.sleep(0.001)
        running.pipeline.swap(tiny())
        running.feed(2)
        running.end()
    assert len(kept.predictions) == 2
    assert running.pipeline.unscored == 3


@pytest.mark.parametrize("error", [OutputError("the disk is full"), RuntimeError("a plugin's own mistake")])
def test_an_output_that_fails_is_counted_and_the_others_go_on(error):
    kept = Kept()
    with Running(tiny(), bad=Kept(error), good=kept) as running:
        for _ in range(3):
            running.feed(1)
        running.end()
    assert len(kept.predictions) == 3
    assert 1 <= running.pipeline.output_errors["bad"] <= 3
    assert "good" not in running.pipeline.output_errors


def test_windows_that_the_model_cannot_take_are_counted_and_the_next_ones_are_predicted():
    kept, quick = Kept(), tiny()

    def moody(x):
        if x[0, 0, 0] < 0:
            raise ProgramError("not these")
        return quick.run(x)

    with Running(Model(quick.manifest, "moody", moody), out=kept) as running:
        running.feed(2, -1.0)
        while running.pipeline.failed < 2:
            time.sleep(0.001)
        running.feed(3, 1.0)
        running.end()
    assert running.pipeline.failed == 2
    assert len(kept.predictions) == 3


def test_a_label_is_known_or_not():
    pipeline = Running(tiny()).pipeline
    assert pipeline.label("high", 0, 5)
    assert not pipeline.label("tall", 0, 5)


class Gate:
    """A model that waits at each batch until it may go on."""

    name = "gate"

    def __init__(self, model):
        self.model, self.reached, self.open = model, threading.Event(), threading.Event()

    def predict(self, windows, arrived):
        self.reached.set()
        assert self.open.wait(PATIENCE)
        return self.model.predict(windows, arrived)


def test_a_label_reaches_the_windows_that_wait_in_the_queue(tmp_path):
    gate = Gate(tiny())
    with Running(gate) as running:
        shape, settings = (len(models.CHANNELS), 4), StoreSettings(1 << 20, 1e12, 60.0, 0.0)
        running.pipeline.store = SampleStore(tmp_path / "windows.db", "f", shape, settings)
        running.feed(1, 1.0)
        assert gate.reached.wait(PATIENCE)
        running.feed(1, 2.0)  # the one waits in the model, the other in the queue
        assert running.pipeline.label("high", 0.0, 10.0)
        gate.open.set()
        running.end()
    counts = running.pipeline.store.counts()
    running.pipeline.store.close(time.time())
    assert (counts.windows, counts.labelled) == (2, 2)


def test_windows_completed_by_two_sensors_at_once_stay_in_the_streams_order():
    class Slow(WindowQueue):
        """Its first window takes a while on its way in: another sensor's would pass it."""

        passed = threading.Event()

        def put(self, windows, live):
            if self.received == 0 and not self.passed.is_set():
                second.start()
                self.passed.wait(0.3)
            super().put(windows, live)
            self.passed.set()

    kept, one, other = Kept(), ["a"], ["b"]
    sensors = {"one": one, "other": other}
    stream = Stream(["a", "b"], 10.0, 4, 4, models.LABELS, sensors, StreamConfig())
    pipeline = Pipeline(stream, models.LABELS, Slow(100), tiny(), {"out": kept}, None, 16)

    def feed(sensor, begin, count):
        samples = Samples((begin + np.arange(count)) / 10, np.ones((1, count), np.float32))
        pipeline.feed(sensor, samples, True, threading.Event())

    second = threading.Thread(target=feed, args=("one", 4, 5))
    feed("one", 0, 4)
    feed("other", 0, 9)  # completes the first window; the second sensor then completes the next one
    second.join(PATIENCE)
    pipeline.queue.close()
    pipeline.run()
    assert [p.start for p in kept.predictions] == [0.0, 0.4]


def test_a_replay_that_ends_gives_its_last_windows():
    kept = Kept()
    with Running(tiny(), live=False, out=kept) as running:
        running.feed(2)
        running.pipeline.ended("s")
        running.end()
    assert len(kept.predictions) == 2


def test_a_model_that_fails_is_called_broken_until_it_predicts_again():
    quick = tiny()

    def moody(x):
        if x[0, 0, 0] < 0:
            raise ProgramError("not these")
        return quick.run(x)

    with Running(Model(quick.manifest, "moody", moody)) as running:
        running.feed(1, -1.0)
        while not running.pipeline.broken:
            time.sleep(0.001)
        assert running.pipeline.broken == "not these"
        running.feed(1)
        while running.pipeline.broken:
            time.sleep(0.001)
        running.end()


def test_without_a_model_that_loads_windows_count_as_failed_and_a_candidate_sees_them():
    shown = []
    with Running(None) as running:
        running.pipeline.broken = "does not load"
        running.pipeline.shadow = lambda windows: shown.append(len(windows))
        running.feed(3)
        while running.pipeline.failed < 3:
            time.sleep(0.001)
        running.pipeline.swap(tiny())
        assert running.pipeline.broken == ""
        running.end()
    assert (sum(shown), running.pipeline.unscored) == (3, 0)


def test_at_a_duty_the_model_rests_and_nothing_is_lost_at_the_end():
    """A fifth of the time for the model: what it took is less than half of what passed, by a wide margin."""
    quick, busy = tiny(), [0.0]

    def slow(x):
        began = time.monotonic()
        time.sleep(0.02)
        try:
            return quick.run(x)
        finally:
            busy[0] += time.monotonic() - began

    kept = Kept()
    with Running(Model(quick.manifest, "slow", slow), out=kept) as running:
        running.pipeline.duty = 0.2
        began = time.monotonic()
        for count in range(1, 11):
            running.feed(1)
            while running.pipeline.predicted < count:
                time.sleep(0.001)
        assert busy[0] < 0.5 * (time.monotonic() - began)
        running.feed(100)
        running.end()
    assert len(kept.predictions) == 110


def test_a_pipeline_that_rests_long_shows_that_it_lives_and_ends_at_once(monkeypatch):
    monkeypatch.setattr(pipelines, "_REST", 0.01)
    with Running(tiny()) as running:
        running.pipeline.duty = 1e-9
        running.feed(1)
        while running.pipeline.predicted < 1:
            time.sleep(0.001)
        first = running.pipeline.beat
        while running.pipeline.beat == first:
            time.sleep(0.001)
        running.end()
