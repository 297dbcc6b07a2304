"""A fleet that grows a forest: three real clinics, real Mosquitto, two rounds, a release that runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from marram.bundle.file import parse
from marram.bundle.forest import Layout
from marram_cloud.releases.calibration import read_calibration

from examples.trees.make import make
from tests.support.fleet import Fleet
from tests.support.mosquitto import Mosquitto

ROUNDS = 2
CLINICS = (2, 4, 6)
QUICK = {
    "releases": {"spread": "0s", "trial": {"windows": 20, "confirm": 20, "agreement": 0}},
    "learning": {"store": {"commit_every": "200ms"}},
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("forest")
    project = folder / "project"
    made = make(project)
    rounds = {"strategy": {"type": "forest", "trees": 8}, "limit": ROUNDS, "minimum_devices": len(CLINICS)}
    with (
        Mosquitto(folder / "broker") as broker,
        Fleet(folder, broker.url, len(CLINICS), rounds, QUICK, bundle=made.path) as running,
    ):
        for device, clinic in zip(running.devices, CLINICS, strict=True):
            recording = {"path": str(project / f"clinic-{clinic}.csv"), "label": "diagnosis"}
            sensor = {"type": "csv", "name": "table", "speed": 200, "repeat": True, **recording}
            device.write(model={"bundle": str(made.path)}, sensors=[sensor])
        running.start().closed(ROUNDS)
        yield running


def test_the_fleet_grows_a_forest_that_is_released_and_runs(fleet: Fleet) -> None:
    aggregator = fleet.aggregator
    aggregator.counted_once()
    assert aggregator.refused() == {}
    assert len(aggregator.deltas()) == ROUNDS * len(CLINICS)

    # Of the versions that devices have judged the best, and not the mean of some: trees have none.
    version = fleet.release()
    bundle = parse((fleet.folder / "built.marram").read_bytes())
    layout = Layout.of(bundle.manifest)
    forest = layout.unpack(bundle.parameters())
    assert len(forest.trees) == 8 * len(CLINICS)
    told = read_calibration(fleet.folder / "project" / "calibration.npz", layout.room.features, 1)
    scores = bundle.program("infer")(x=told.windows)["scores"]
    assert (scores.argmax(axis=1) == told.labels).mean() > 0.85

    device = fleet.devices[0]
    device.until("the release", lambda status: status["model"]["release"] == version, 90)
    before = len(device.predicted())
    device.until("windows", lambda status: status["windows"]["predicted"] > before + 10)
    last = device.predicted()[-1]
    assert list(last["scores"]) == list(bundle.manifest.labels)
    np.testing.assert_allclose(sum(last["scores"].values()), 1, atol=1e-3)
