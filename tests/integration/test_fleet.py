"""A fleet as its owner runs it: real processes, real Mosquitto."""

from __future__ import annotations

from pathlib import Path

from tests.support.fleet import Fleet
from tests.support.mosquitto import Mosquitto


def test_devices_and_aggregator_learn_together(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker, Fleet(tmp_path, broker.url, rounds={"limit": 4}) as fleet:
        fleet.start().closed(4)
        fleet.settled()
        fleet.aggregator.counted_once()
        assert len(fleet.aggregator.deltas()) == 8
        assert fleet.aggregator.refused() == {}
        done = fleet.must("rounds", "-c", fleet.aggregator.config)
        assert "refused: nothing" in done
        for device in fleet.devices:
            assert device.process.stop() == 0
        assert fleet.aggregator.process.stop() == 0
