"""`marram reload` and SIGHUP on a real agent: what changed is taken, what is wrong is refused."""

import json
import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.support.cli import marram
from tests.support.configs import RECORDING, SHOULDER_BUNDLE
from tests.support.processes import NotifySocket, Process, eventually


class Agent:
    """One agent that replays a recording; ``settings`` is what its file says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "marram.yaml"
        self.settings = {
            "device": {"name": "one", "state": "state"},
            "sensors": [
                {"type": "csv", "name": "watch", "path": str(RECORDING), "speed": 40, "repeat": True}
            ],
            "model": {"bundle": str(SHOULDER_BUNDLE)},
            "outputs": [{"type": "jsonl", "path": "out.jsonl"}],
        }
        self.write()
        self.process = Process("marram.cli", ["run", "-c", str(self.config)], folder / "agent.log")

    def write(self, **sections: object) -> None:
        self.settings |= sections
        self.config.write_text(yaml.safe_dump(self.settings))

    def reload(self):
        return marram("reload", "-c", self.config)

    def starts(self, name="out.jsonl"):
        path = self.folder / name
        return [json.loads(line)["start"] for line in path.read_text().splitlines()] if path.exists() else []

    def status(self):
        return json.loads(marram("status", "--json", "-c", self.config).stdout)


@pytest.fixture
def agent(tmp_path):
    running = Agent(tmp_path)
    with NotifySocket(tmp_path / "notify") as systemd:
        running.systemd = systemd
        running.process.start(NOTIFY_SOCKET=str(systemd.path))
        eventually("predictions", running.starts)
        yield running
        running.process.kill()


def test_what_changed_is_taken_and_told_and_no_window_is_lost_between(agent):
    agent.write(outputs=[{"type": "jsonl", "path": "second.jsonl"}], watch={"every": "1s"})
    (agent.folder / "conf.d").mkdir()
    (agent.folder / "conf.d/10.yaml").write_text("device: {log_level: debug}\n")
    done = agent.reload()
    assert (done.returncode, done.stdout) == (0, "changed: device.log_level, outputs, watch.every\n")
    eventually("predictions in the second file", lambda: len(agent.starts("second.jsonl")) > 5)
    assert agent.process.stop() == 0
    starts = agent.starts() + agent.starts("second.jsonl")
    # A recording has breaks of its own; within its runs a window begins every second.
    assert all(later - earlier > 1 - 1e-6 for earlier, later in pairwise(starts))
    after = agent.starts("second.jsonl")[0] - agent.starts()[-1]
    assert after == pytest.approx(1) or after > 2
    reloading = next(one for one in agent.systemd.messages if one.startswith("RELOADING=1"))
    assert reloading.splitlines()[1].removeprefix("MONOTONIC_USEC=").isdecimal()
    ready = [n for n, message in enumerate(agent.systemd.messages) if message == "READY=1"]
    assert ready[0] < agent.systemd.messages.index(reloading) < ready[1]


def test_nothing_changed_is_told_too(agent):
    done = agent.reload()
    assert (done.returncode, done.stdout) == (0, "nothing has changed\n")


def test_a_wrong_file_is_refused_with_its_place_and_everything_goes_on(agent):
    agent.write(outputs=[{"type": "jsonl", "path": "second.jsonl", "keep": -1}])
    done = agent.reload()
    assert done.returncode == 1
    assert "outputs[0].keep: expected a whole number from 0 to 100, found the number -1" in done.stderr
    os.kill(agent.process.pid, signal.SIGHUP)
    eventually("the log", lambda: agent.process.said("the configuration was not taken, everything goes on"))
    assert agent.process.said("outputs[0].keep: expected a whole number from 0 to 100, found the number -1")
    seen = len(agent.starts())
    eventually("more predictions", lambda: len(agent.starts()) > seen + 2)
    assert not (agent.folder / "second.jsonl").exists()
    eventually("the end of the reload", lambda: agent.systemd.count("READY=1") == 2)


def test_sighup_takes_what_changed_and_logs_it(agent):
    agent.write(outputs=[{"type": "jsonl", "path": "second.jsonl"}])
    os.kill(agent.process.pid, signal.SIGHUP)
    eventually("the log", lambda: agent.process.said("configuration taken; changed: outputs"))
    eventually("predictions in the second file", lambda: agent.starts("second.jsonl"))


def test_what_needs_a_restart_is_refused_by_name_and_nothing_else_is_taken(agent):
    agent.write(
        device={"name": "two", "state": "state"},
        outputs=[{"type": "jsonl", "path": "second.jsonl"}],
        learning={"holdout": 0.3},
    )
    done = agent.reload()
    assert done.returncode == 1
    assert done.stderr == "nothing was changed: device.name, learning need a restart\n"
    assert agent.status()["device"] == "one"
    assert not (agent.folder / "second.jsonl").exists()


def test_another_state_folder_is_not_silently_another_agent(agent):
    agent.write(device={"name": "one", "state": "elsewhere"})
    done = agent.reload()
    assert done.returncode == 1
    assert "no daemon answers here" in done.stderr
    assert "if device.state or control.socket changed, restart the agent" in done.stderr


def test_sensors_come_and_go(agent):
    watch = agent.settings["sensors"][0]
    agent.write(sensors=[watch, {"type": "host", "name": "own", "rate": 20}])
    assert agent.reload().stdout == "changed: sensors.own\n"
    assert set(agent.status()["sensors"]) == {"watch", "own"}
    agent.write(sensors=[watch | {"speed": 60}])
    assert agent.reload().stdout == "changed: sensors.watch.speed, sensors.own\n"
    assert set(agent.status()["sensors"]) == {"watch"}
    seen = len(agent.starts())
    eventually("predictions of the new sensor", lambda: len(agent.starts()) > seen + 5)


def test_the_environment_and_the_options_of_the_start_hold_for_a_reload(tmp_path):
    agent = Agent(tmp_path)
    here = tmp_path / "set.jsonl"
    command = ["run", "-c", str(agent.config), "--set", f"outputs=[{{type: jsonl, path: {here}}}]"]
    agent.process = Process("marram.cli", command, tmp_path / "agent.log")
    agent.process.start(MARRAM__DEVICE__LOG_LEVEL="debug")
    try:
        eventually("predictions", lambda: here.exists() and here.stat().st_size)
        agent.write(outputs=[{"type": "stdout"}], watch={"every": "1s"})
        assert agent.reload().stdout == "changed: watch.every\n"
    finally:
        agent.process.kill()
