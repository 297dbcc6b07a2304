"""A device whose disk is full goes on predicting, says so, and recovers when there is room."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.disk import Disk, FileSizeLimit, SmallDisk
from tests.support.fleet import Fleet
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually
from tests.support.sampled import drawn


@pytest.mark.parametrize("kind", drawn(["no space left", "files may not grow"], 1))
def test_a_full_disk_stops_neither_inference_nor_the_device(tmp_path: Path, kind: str) -> None:
    small = SmallDisk(tmp_path / "small")
    with ExitStack() as stack:
        broker = stack.enter_context(Mosquitto(tmp_path / "mosquitto"))
        if kind == "no space left":
            try:
                stack.enter_context(small)
            except (OSError, FileNotFoundError):
                kind = "files may not grow"
        rounds = {"minimum_devices": 1}
        fleet = stack.enter_context(Fleet(tmp_path, broker.url, devices=1, rounds=rounds))
        device = fleet.devices[0]
        sensor = {**device.settings["sensors"][0], "speed": 30, "repeat": True}
        device.state = small.folder / "state"
        device.predictions = small.folder / "predictions.jsonl"
        output = {"type": "jsonl", "path": str(device.predictions)}
        device.write(watch={"every": "500ms"})
        device.write(device={"state": str(device.state)}, sensors=[sensor], outputs=[output])
        disk: Disk = small if kind == "no space left" else FileSizeLimit(lambda: device.process.pid)
        fleet.start().closed(1)

        disk.fill()
        before = device.status()["windows"]["predicted"]
        device.until("more predictions", lambda status: status["windows"]["predicted"] > before + 40)
        device.until("the mode", lambda status: "disk-full" in status["modes"])
        device.until("failed writes", lambda status: status["outputs"]["0-jsonl"]["errors"] > 0)
        assert device.status()["windows"]["failed"] == 0
        if kind == "no space left":
            assert device.process.said("No space left on device")

        disk.free()
        device.until(
            "the end of the mode", lambda status: not status["modes"] and not status["store"]["error"]
        )
        # Half a line would be one that cannot be read.
        lines = len(device.predicted())
        eventually("more predictions on disk", lambda: len(device.predicted()) > lines)

        # Its pause after a failed write is long; a restart ends it, and shows that nothing is spoilt.
        assert device.process.stop() == 0
        device.start()
        fleet.goes_on(2)
        fleet.aggregator.counted_once()


def test_a_daemon_that_is_stopped_on_a_full_disk_ends_cleanly(tmp_path: Path) -> None:
    with Fleet(tmp_path, "mqtt://127.0.0.1:9", devices=1) as fleet:
        device = fleet.devices[0]
        device.write(learning={"store": {"commit_every": "1h"}}, outputs=[])
        device.start()
        device.until("windows", lambda status: status["windows"]["predicted"] > 0)
        FileSizeLimit(lambda: device.process.pid).fill()
        assert device.process.stop() == 0


def test_an_aggregator_with_a_full_disk_acknowledges_nothing_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    rounds = {"epochs": 4, "limit": 4}
    with Mosquitto(tmp_path / "mosquitto") as broker, Fleet(tmp_path, broker.url, rounds=rounds) as fleet:
        fleet.start().closed(1)
        disk = FileSizeLimit(lambda: fleet.aggregator.process.pid)
        disk.fill()
        for device in fleet.devices:
            device.until("a delta without a receipt", lambda status: status["rounds"]["outbox"] == 1)
        assert fleet.aggregator.process.running
        disk.free()
        fleet.closed(4)
        fleet.settled()
        fleet.aggregator.counted_once()
        assert len(fleet.aggregator.deltas()) == 8
