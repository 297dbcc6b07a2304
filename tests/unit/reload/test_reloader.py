"""A running daemon takes other configurations while samples stream: all of one or nothing, no window lost."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from marram.config.load import load
from marram.config.schema import Agent
from marram.daemon import Daemon
from marram.errors import MarramError
from marram.reload.reloader import ReloadError

from tests.support.configs import HOST_BUNDLE, RECORDING, SHOULDER_BUNDLE
from tests.support.processes import eventually
from tests.support.windows import shoulder_windows


class Running:
    """A daemon in a thread of this process that replays a recording; ``settings`` is what its file says."""

    def __init__(self, folder: Path, **tape: Any) -> None:
        self.folder, self.config = folder, folder / "marram.yaml"
        self.settings: dict[str, Any] = {
            "device": {"name": "one", "state": "state"},
            "sensors": [{"type": "csv", "name": "watch", "path": str(RECORDING), "label": "exercise"} | tape],
            "model": {"bundle": str(SHOULDER_BUNDLE)},
            "outputs": [{"type": "jsonl", "path": "out.0000.jsonl"}],
            "learning": {"store": {"commit_every": "1s"}},
        }
        self.write()
        self.daemon = Daemon(load(self.config, Agent), lambda: load(self.config, Agent))
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def write(self) -> None:
        self.config.write_text(yaml.safe_dump(self.settings))

    def reload(self, **sections: Any) -> tuple[str, ...]:
        """With these sections in place of those in the file; None takes one away."""
        self.settings |= sections
        self.settings = {key: value for key, value in self.settings.items() if value is not None}
        self.write()
        return self.daemon._reloader.reload().changed

    @property
    def parts(self) -> Any:
        return self.daemon._parts

    def starts(self) -> list[float]:
        """Of all predictions in all files, in the order of the files' names and their lines."""
        texts = [path.read_text() for path in sorted(self.folder.glob("*.jsonl"))]
        return [json.loads(line)["start"] for text in texts for line in text.splitlines()]

    def _run(self) -> None:
        try:
            self.daemon.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.stop()
        self._thread.join()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path, speed=40, repeat=True) as daemon:
        eventually("predictions", lambda: daemon.parts.pipeline.predicted)
        yield daemon


def changes(random: random.Random, number: int) -> dict[str, Any]:
    """Sections that change nothing of what is predicted."""
    watch = {"type": "csv", "name": "watch", "path": str(RECORDING), "label": "exercise"}
    watch |= {"speed": 150, "rebase": False}
    host = {"type": "host", "name": "own", "rate": random.choice([5, 50])}
    sections: dict[str, Any] = {
        "sensors": random.choice([[watch], [watch, host], [host, watch]]),
        "stream": {"channels": {"ax": {"max": random.choice([1e5, 1e6])}}},
        "model": {
            "bundle": str(SHOULDER_BUNDLE),
            "threads": random.choice([1, 2]),
            "max_batch": random.choice([1, 7, 64]),
            "queue": random.choice([500, 4096]),
        },
        # Names sort by when they were written to; an output of the same file is kept.
        "outputs": [
            {"type": "jsonl", "path": f"out.{number // 3:04}.jsonl", "keep": random.choice([1, 2])},
        ],
        "learning": {"store": {"max_bytes": random.choice(["1MiB", "2MiB"])}},
        "device": {"name": "one", "state": "state", "log_level": random.choice(["error", "warning"])},
        "labels": {"mqtt": random.choice([None, {"broker": "mqtt://127.0.0.1:9", "topic": "t"}])},
    }
    return {key: value for key, value in sections.items() if key == "outputs" or random.random() < 0.4}


@pytest.mark.parametrize("seed", range(2))
def test_over_many_reloads_no_window_is_lost_or_doubled(tmp_path, seed):
    wanted = shoulder_windows(1).start.tolist()
    choice, taken = random.Random(seed), 0
    with Running(tmp_path, speed=150, rebase=False) as running:
        pipeline = running.parts.pipeline
        eventually("the first window", lambda: pipeline.predicted)
        with pytest.raises(ReloadError, match="the agent is stopping"):  # because the recording is over
            while True:
                running.reload(**changes(choice, taken))
                taken += 1
                if taken % 10 == 0:
                    with pytest.raises(ReloadError, match=r"a restart|stopping"):
                        running.reload(device={"name": "another", "state": "state"})
                    running.reload(device={"name": "one", "state": "state"})
    assert running.error is None
    assert running.starts() == pytest.approx(wanted)
    assert pipeline.queue.received == len(wanted) == pipeline.stream.counters()["windows"]
    assert taken > 30


def test_what_is_refused_changes_nothing_at_all(running):
    before, outputs = running.daemon._reloader.config, running.parts.pipeline.outputs
    sections = {
        "device": {"name": "two", "state": "state"},
        "outputs": [{"type": "stdout"}],
        "model": {"bundle": str(HOST_BUNDLE), "queue": 5},
        "learning": None,
    }
    with pytest.raises(ReloadError) as caught:
        running.reload(**sections)
    assert str(caught.value) == ("nothing was changed: model.bundle, device.name, learning need a restart")
    assert running.daemon._reloader.config is before
    assert running.parts.pipeline.outputs is outputs


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"stream": {"max_gap": "soon"}}, "stream.max_gap: expected a duration"),
        ({"sensors": [{"type": "host", "name": "own"}]}, "the channel ax has no source"),
        ({"outputs": [{"type": "stdout"}, {"type": "jsonl", "path": "marram.yaml/x"}]}, "cannot be opened"),
        ({"sensors": [{"type": "csv", "name": "watch", "path": "marram.yaml"}]}, "marram.yaml"),
    ],
)
def test_a_configuration_that_cannot_be_taken_leaves_everything_as_it_is(running, sections, words):
    parts, before = running.parts, running.daemon._reloader.config
    was = (parts.sensors, parts.pipeline.outputs, parts.pipeline.stream, parts.pipeline.model)
    with pytest.raises(MarramError, match=words):
        running.reload(device={"name": "one", "state": "state", "log_level": "debug"}, **sections)
    assert (parts.sensors, parts.pipeline.outputs, parts.pipeline.stream, parts.pipeline.model) == was
    assert running.daemon._reloader.config is before
    predicted = parts.pipeline.predicted
    eventually("more predictions", lambda: parts.pipeline.predicted > predicted)


def test_a_sensor_that_did_not_change_is_left_alone_and_so_is_its_half_full_window(running):
    sensor, stream = running.parts.sensors["watch"], running.parts.pipeline.stream
    clock, changed = stream._clock, running.reload(
        sensors=[*running.settings["sensors"], {"type": "host", "name": "own", "rate": 50}]
    )  # fmt: skip
    assert changed == ("sensors.own",)
    assert running.parts.sensors["watch"] is sensor
    assert running.parts.pipeline.stream._clock is clock
    names = [thread.name for thread in threading.enumerate()]
    assert (names.count("sensor-watch"), names.count("sensor-own")) == (1, 1)
    running.reload(sensors=running.settings["sensors"][:1])
    assert [t.name for t in threading.enumerate()].count("sensor-own") == 0
    assert list(running.parts.sensors) == ["watch"]


def test_outputs_that_did_not_change_stay_open_wherever_they_stand(running):
    before = running.parts.pipeline.outputs["0-jsonl"]
    second = {"type": "jsonl", "path": "second.jsonl"}
    running.reload(outputs=[second, {"type": "jsonl", "path": "out.0000.jsonl"}])
    outputs = running.parts.pipeline.outputs
    assert outputs["1-jsonl"] is before
    running.reload(outputs=[second | {"name": "log"}])
    assert list(running.parts.pipeline.outputs) == ["log"]
    with contextlib.suppress(FileNotFoundError):
        (running.folder / "out.0000.jsonl").unlink()
    predicted = running.parts.pipeline.predicted
    eventually("more predictions", lambda: running.parts.pipeline.predicted > predicted + 1)
    assert not (running.folder / "out.0000.jsonl").exists()


def test_settings_reach_the_parts_that_use_them(running):
    parts = running.parts
    running.reload(
        learning={"governor": {"max_cpu": 7}, "trainer": {"timeout": "3s"}, "store": {"max_bytes": "1MiB"}},
        watch={"training_below": 55},
        model={"bundle": str(SHOULDER_BUNDLE), "max_batch": 3, "queue": 9},
    )
    assert parts.workshop.config.governor.max_cpu == 7
    assert parts.workshop.config.trainer.timeout == 3
    eventually("the watch", lambda: parts.watcher.settings.training_below == 55)
    assert parts.workshop.store._settings.max_bytes == 1 << 20
    assert (parts.pipeline.max_batch, parts.pipeline.queue._limit) == (3, 9)


def test_a_model_is_loaded_with_other_threads_and_the_same_goes_on(running):
    before, swaps = running.parts.pipeline.model, running.parts.pipeline.swaps
    assert running.reload(model={"bundle": str(SHOULDER_BUNDLE), "threads": 2}) == ("model.threads",)
    after = running.parts.pipeline.model
    assert after is not before
    assert after.name == before.name
    assert running.parts.pipeline.swaps == swaps


def test_a_daemon_that_stops_takes_nothing_more(running):
    running.daemon._reloader.close()
    with pytest.raises(ReloadError, match="the agent is stopping"):
        running.reload(outputs=[])
