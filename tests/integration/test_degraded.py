"""Each degraded mode as it really happens to a real agent: what goes on, what is shown, and its end."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from marram.config.load import load
from marram.config.schema import Agent
from marram.daemon import Daemon

from tests.support import trees
from tests.support.configs import RECORDING, SHOULDER_BUNDLE
from tests.support.fleet import MODEL, Device, Fleet
from tests.support.mosquitto import Mosquitto, free_port
from tests.support.processes import NotifySocket, eventually
from tests.support.releases import released
from tests.unit.test_daemon import Running

ENDLESS = {
    "type": "csv",
    "name": "watch",
    "path": str(RECORDING),
    "label": "exercise",
    "speed": 30,
    "repeat": True,
}
OFTEN = {"every": "200ms"}


def alone(folder: Path, **changes: Any) -> Device:
    """A device without a cloud that plays its recording for ever."""
    one = Device(
        folder / "one", "one", folder, "mqtt://127.0.0.1:9", 1, {"watch": OFTEN, "sensors": [ENDLESS]}
    )
    del one.settings["cloud"]
    one.write(**changes)
    return one


def goes_on(device: Device) -> None:
    """It predicts."""
    before = device.status()["windows"]["predicted"]
    device.until("more predictions", lambda status: status["windows"]["predicted"] > before + 20)


def mode(device: Device, name: str) -> dict[str, Any]:
    """What is shown of a mode, once it has begun."""
    device.until(f"mode {name}", lambda status: name in status["modes"])
    shown: dict[str, Any] = device.status()["modes"][name]
    assert device.process.said(f"mode {name} begins: {shown['reason'][:40]}")
    return shown


def over(device: Device, name: str) -> None:
    device.until(f"the end of mode {name}", lambda status: name not in status["modes"])
    assert device.process.said(f"mode {name} ends")


# ---- no network


def test_no_network(tmp_path: Path) -> None:
    port = free_port()
    url = f"mqtt://127.0.0.1:{port}"
    with Fleet(tmp_path, url, devices=1, device={"watch": OFTEN, "sensors": [ENDLESS]}) as fleet:
        device = fleet.devices[0]
        with NotifySocket(tmp_path / "notify") as systemd:
            device.start(systemd)
            shown = mode(device, "no-network")
            assert shown["reason"] == "no connection to the broker"
            goes_on(device)
            said = "STATUS=running with limits: no-network (no connection to the broker)"
            eventually("the mode in systemd's status", lambda: systemd.said(said))
            with Mosquitto(tmp_path / "mosquitto", port=port):
                over(device, "no-network")
                eventually("its end in systemd's status", lambda: systemd.said("STATUS=running"))
            assert device.process.stop() == 0


# ---- no sensor


def test_no_sensor(tmp_path: Path) -> None:
    port = tmp_path / "port"
    serial = {"type": "serial", "name": "scale", "port": str(port), "channels": ["ax"]}
    device = alone(
        tmp_path, sensors=[{**ENDLESS}, serial], stream={"channels": {"ax": {"source": "watch.ax"}}}
    )
    try:
        device.start()
        assert str(port) in mode(device, "no-sensor")["reason"]
        goes_on(device)  # the other sensor feeds all that the model needs
        ours, theirs = os.openpty()
        port.symlink_to(os.ttyname(theirs))

        def speaks() -> bool:
            os.write(ours, b'{"ax": 1.5}\n')
            return "no-sensor" not in device.status()["modes"]

        eventually("the sensor is back", speaks)
        over(device, "no-sensor")
    finally:
        device.process.kill()


# ---- no clock


def test_no_clock(tmp_path: Path) -> None:
    """The daemon's clock begins in 1970, and is set right while it runs."""
    late = tmp_path / "late"
    trees.write(
        tmp_path,
        {
            "late/sitecustomize.py": "import os, time\nreal, began = time.time, time.time()\n"
            f"time.time = lambda: real() if os.path.exists('{tmp_path}/set') else real() - began"
        },
    )
    device = alone(tmp_path)
    try:
        device.start(PYTHONPATH=str(late))
        assert "less than what has surely passed" in mode(device, "no-clock")["reason"]
        goes_on(device)
        (tmp_path / "set").touch()
        over(device, "no-clock")
        goes_on(device)
    finally:
        device.process.kill()


# ---- broken model


def test_a_damaged_bundle_is_replaced_by_its_copy(tmp_path: Path) -> None:
    bundle = tmp_path / "model.marram"
    shutil.copy(SHOULDER_BUNDLE, bundle)
    device = alone(tmp_path, model={"bundle": str(bundle)})
    try:
        device.start()
        goes_on(device)
        assert device.process.stop() == 0
        bundle.write_bytes(bundle.read_bytes()[:-3000])
        device.start()
        assert "the copy from an earlier start runs" in mode(device, "broken-model")["reason"]
        goes_on(device)
        assert device.process.stop() == 0
        shutil.copy(SHOULDER_BUNDLE, bundle)
        device.start()
        goes_on(device)
        assert device.status()["modes"] == {}
    finally:
        device.process.kill()


def test_a_model_that_does_not_load_is_healed_by_a_release(tmp_path: Path) -> None:
    bundle = tmp_path / "model.marram"
    bundle.write_bytes(released("0", infer=b"nothing that onnxruntime knows"))
    changes = {
        "watch": OFTEN,
        "model": {"bundle": str(bundle)},
        "sensors": [ENDLESS],
        "releases": {"trial": {"windows": 20, "confirm": 20}, "spread": 0},
    }
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        Fleet(tmp_path, broker.url, 1, {"minimum_devices": 1}, changes) as fleet,
    ):
        device = fleet.devices[0]
        device.start()
        assert "does not load" in mode(device, "broken-model")["reason"]
        device.until("windows that are kept for training", lambda status: status["store"]["labelled"] > 20)
        assert device.status()["windows"]["predicted"] == 0
        assert device.status()["windows"]["failed"] > 0
        fleet.aggregator.start()
        good = tmp_path / "good.marram"
        good.write_bytes(released("1"))
        fleet.publish(good, "1")
        fleet.must("release", "promote", MODEL, "1", "--to", "all", "-c", fleet.aggregator.config)
        device.until("the release", lambda status: status["model"]["release"] == "1", 60)
        over(device, "broken-model")
        goes_on(device)


def test_a_model_that_does_not_load_and_that_nothing_can_heal_ends_the_agent(tmp_path: Path) -> None:
    bundle = tmp_path / "model.marram"
    bundle.write_bytes(released("0", infer=b"nothing that onnxruntime knows"))
    device = alone(tmp_path, model={"bundle": str(bundle)})
    device.process.start()
    assert device.process.wait() == 1
    assert device.process.said("onnxruntime cannot load")


# ---- heat, power, wear: a daemon in this process, on a tree of /sys


class Warm(Running):
    """A daemon whose /sys is a folder."""

    def __init__(self, folder: Path, **watch: object) -> None:
        super().__init__(folder)
        settings = yaml.safe_load((folder / "marram.yaml").read_text())
        self.daemon._hold.close()
        settings |= {"watch": {"every": 0.1, **watch}, "learning": {"governor": {"max_cpu": 100}}}
        settings["device"]["state"] = str(folder / "warm")
        (folder / "marram.yaml").write_text(yaml.safe_dump(settings))
        self.daemon = Daemon(load(folder / "marram.yaml", Agent))
        self.folder = folder
        assert self.parts.watcher is not None
        self.watcher = self.parts.watcher
        self.watcher.sys = folder / "sys"

    def reads(self, files: dict[str, str]) -> None:
        trees.write(self.folder, files)

    @property
    def modes(self) -> set[str]:
        return set(self.watcher.modes.active)


def test_hot_pauses_training_and_slows_inference_down_and_ends_with_a_margin(tmp_path: Path) -> None:
    with Warm(tmp_path, training_below=70, full_speed_below=80, duty=0.2) as warm:
        pipeline, workshop = warm.parts.pipeline, warm.parts.workshop
        assert workshop is not None
        warm.reads(trees.zone(0, "cpu-thermal", 75))
        eventually("hot", lambda: warm.modes == {"hot"})
        eventually("training is paused", lambda: "too hot" in workshop.permit(1)[1])
        assert pipeline.duty == 1.0
        warm.reads(trees.zone(0, "cpu-thermal", 81))
        eventually("slowed down", lambda: pipeline.duty == 0.2)
        before = pipeline.predicted
        eventually("it still predicts", lambda: pipeline.predicted > before + 20)
        warm.reads(trees.zone(0, "cpu-thermal", 76))
        warm.reads(trees.supply(False))
        time.sleep(0.5)  # several looks: 76 is within the margin of 80
        assert pipeline.duty == 0.2
        warm.reads(trees.zone(0, "cpu-thermal", 60))
        eventually("cool", lambda: warm.modes == set() and pipeline.duty == 1.0 and not workshop.paused)


def test_under_voltage_pauses_training(tmp_path: Path) -> None:
    with Warm(tmp_path) as warm:
        workshop = warm.parts.workshop
        assert workshop is not None
        warm.reads(trees.supply(True))
        eventually("under-voltage", lambda: warm.modes == {"under-voltage"})
        eventually("training is paused", lambda: "under-voltage" in workshop.permit(1)[1])
        warm.reads(trees.supply(False))
        eventually("its end", lambda: warm.modes == set() and not workshop.paused)


def test_writes_exceeded_makes_commits_rarer(tmp_path: Path) -> None:
    with Warm(tmp_path, writes_per_day="1MiB") as warm:
        store = warm.parts.pipeline.store
        assert store is not None
        assert store.stretch == 1.0
        warm.watcher.wear.total = lambda: 2 << 20
        eventually("writes-exceeded", lambda: warm.modes == {"writes-exceeded"})
        eventually("commits are rarer", lambda: store.stretch > 1)
        before = warm.parts.pipeline.predicted
        eventually("it predicts", lambda: warm.parts.pipeline.predicted > before + 20)
    kept = json.loads((tmp_path / "warm/wear.json").read_text())["days"]
    assert list(kept.values()) == [2 << 20]


@pytest.mark.parametrize("paused", ["too hot", ""])
def test_a_training_that_runs_stands_still_while_it_is_paused(tmp_path: Path, paused: str) -> None:
    """By what the kernel says of the child: T is stopped."""
    with Warm(tmp_path) as warm:
        workshop = warm.parts.workshop
        assert workshop is not None
        eventually("windows", lambda: workshop.store.counts().windows > 20)
        done: list[object] = []
        workshop.start(None, 1_000_000, 16, 0.01, 0.0, 1, done.append)
        eventually("a training", lambda: workshop.child.pid is not None)
        workshop.pause("too hot")
        state = Path(f"/proc/{workshop.child.pid}/stat")

        def stopped() -> bool:
            return state.read_text().rpartition(")")[2].split()[0] == "T"

        eventually("it stands still", stopped)
        workshop.pause(paused)
        if not paused:
            eventually("it goes on", lambda: not stopped())
        pid = workshop.child.pid
        workshop.stop()
        eventually("its end", lambda: not Path(f"/proc/{pid}").exists() or "Z" in state.read_text())
