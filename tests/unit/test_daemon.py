"""The daemon's life in one process: the watchdog, stages that hang or break, sensors that fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from marram import daemon as daemons
from marram import loop, notify
from marram.config.load import load
from marram.config.schema import Agent
from marram.daemon import Daemon, DaemonError
from marram.errors import StorageError
from marram.inference import pipeline
from marram.inference.prediction import Prediction

from tests.support.processes import NotifySocket, eventually

SHOULDER = Path(__file__).parents[2] / "examples" / "shoulder"


class Running:
    """A daemon that replays a recording for ever, in a thread of this process."""

    def __init__(self, folder: Path) -> None:
        recording = SHOULDER / "recordings" / "person-03.csv.gz"
        sensor = {"type": "csv", "name": "watch", "path": str(recording), "speed": 40, "repeat": True}
        config = folder / "marram.yaml"
        settings = {
            "device": {"name": "device", "state": str(folder / "state")},
            "sensors": [sensor],
            "model": {"bundle": str(SHOULDER / "shoulder.marram")},
        }
        config.write_text(yaml.safe_dump(settings))
        self.daemon = Daemon(load(config, Agent))
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.stop()
        self._thread.join()

    @property
    def parts(self) -> daemons.Parts:
        return self.daemon._parts

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.daemon.run()
        except BaseException as error:
            self.error = error


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifySocket]:
    """systemd's side, with a watchdog of 0.2 s; stages that look idle look often."""
    with NotifySocket(tmp_path / "notify") as listening:
        monkeypatch.setenv("NOTIFY_SOCKET", str(listening.path))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        monkeypatch.setattr(daemons, "_STALLED", 2.0)
        monkeypatch.setattr(pipeline, "_IDLE", 0.1)
        monkeypatch.setattr(loop, "_IDLE", 0.1)
        yield listening


class Hanging:
    """An output whose other side does not take anything for a while."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def write(self, predictions: Sequence[Prediction]) -> None:
        self.free.wait()

    def close(self) -> None:
        pass


class Failing:
    """An output that fails in a way that nobody thought of."""

    def write(self, predictions: Sequence[Prediction]) -> None:
        raise ZeroDivisionError("not thought of")

    def close(self) -> None:
        pass


def test_a_second_daemon_on_the_state_folder_is_refused_before_it_opens_its_outputs(tmp_path: Path) -> None:
    with Running(tmp_path):
        settings = yaml.safe_load((tmp_path / "marram.yaml").read_text())
        settings["outputs"] = [{"type": "jsonl", "path": str(tmp_path / "out.jsonl")}]
        (tmp_path / "second.yaml").write_text(yaml.safe_dump(settings))
        with pytest.raises(StorageError, match="another agent uses this state folder"):
            Daemon(load(tmp_path / "second.yaml", Agent))
    assert not (tmp_path / "out.jsonl").exists()


def test_the_watchdog_is_fed_while_all_stages_make_progress(tmp_path: Path, systemd: NotifySocket) -> None:
    with Running(tmp_path):
        eventually("READY", lambda: systemd.said("READY=1"))
        eventually("signs of life", lambda: systemd.count("WATCHDOG=1") >= 5)
    eventually("STOPPING", lambda: systemd.said("STOPPING=1"))


def test_a_listener_that_does_not_read_does_not_hold_the_daemon_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = NotifySocket(tmp_path / "deaf")
    monkeypatch.setenv("NOTIFY_SOCKET", str(deaf.path))
    monkeypatch.setattr(notify, "_PATIENCE", 0.01)
    for _ in range(30):
        notify.notify(WATCHDOG="1")


def test_the_watchdog_is_not_fed_while_a_stage_hangs_and_fed_again_after(
    tmp_path: Path, systemd: NotifySocket, caplog: pytest.LogCaptureFixture
) -> None:
    hanging = Hanging()
    with Running(tmp_path) as running:
        eventually("READY", lambda: systemd.said("READY=1"))
        running.parts.pipeline.outputs["hanging"] = hanging
        try:
            eventually("its name in the log", lambda: "no progress for 2 s: inference" in caplog.text)
            told = caplog.text.count("no progress")
            eventually("a period more", lambda: caplog.text.count("no progress") > told)
            fed = systemd.count("WATCHDOG=1")
            eventually("five more periods", lambda: caplog.text.count("no progress") > told + 5)
            assert systemd.count("WATCHDOG=1") == fed
        finally:
            hanging.free.set()
        eventually("a sign of life", lambda: systemd.count("WATCHDOG=1") > fed)


def test_an_output_that_fails_unexpectedly_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        line = running.parts.pipeline
        line.outputs["failing"] = Failing()
        eventually("errors", lambda: line.output_errors.get("failing", 0) >= 3)
        predicted = line.predicted
        eventually("more predictions", lambda: line.predicted > predicted)


def test_a_broken_stage_ends_the_daemon_with_the_reason(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        running.parts.pipeline.model = object()  # type: ignore[assignment]
        eventually("its end", lambda: running.ended)
    assert isinstance(running.error, DaemonError)
    assert "the inference stage broke" in str(running.error)


def test_a_sensor_that_fails_is_read_again_and_its_error_goes_when_it_is_well(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        line = running.parts.pipeline
        eventually("predictions", lambda: line.predicted > 0)
        feed = line.feed
        failed = threading.Event()

        def once(*arguments: object) -> None:
            line.feed = feed  # type: ignore[method-assign]
            failed.set()
            raise ZeroDivisionError("not thought of")

        line.feed = once  # type: ignore[assignment,method-assign]
        assert failed.wait(10)
        errors = running.parts.sensor_errors
        eventually("its error", lambda: "not thought of" in errors.get("watch", ""))
        predicted = line.predicted
        eventually("more predictions", lambda: line.predicted > predicted)
        eventually("no error any more", lambda: errors == {})
