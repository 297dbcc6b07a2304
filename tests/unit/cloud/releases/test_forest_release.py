"""A release of a forest: its trees in infer.onnx as they are, without windows to quantise with."""

import numpy as np
import pytest
from marram.bundle.file import parse
from marram.errors import BundleError
from marram.storage import open_database
from marram_cloud.ledger import ledger as ledgers
from marram_cloud.ledger.ledger import Ledger
from marram_cloud.releases.build import as_text, build
from marram_cloud.releases.calibration import Calibration
from marram_cloud.releases.choose import Stretch
from marram_cloud.releases.fleet_ranges import FromFleet
from marram_cloud.releases.rebuild import rebuild

from tests.support.aggregator import NOW
from tests.support.forests import forest, layout, room_for_trees

CHOSEN = Stretch((1,), 3, 0.5, 0.9)
FLEET = FromFleet(devices=3, trim=0.2)
ROWS = np.random.default_rng(0).normal(size=(50, 3, 1)).astype(np.float32)
GROWN = layout().pack(forest(1, 2, 3, weights=[1, 2, 0.5]))


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(open_database(tmp_path / "ledger.db", ledgers.SCHEMA))
    for version, vector in enumerate((room_for_trees().parameters(), GROWN)):
        made.add_version(version, vector, vector.astype(float), None, NOW)
    return made


def test_the_release_runs_the_trees_of_its_version(ledger, tmp_path):
    source = room_for_trees()
    built = build(ledger, source, CHOSEN, None, FLEET, "1+r1")
    made = parse(built.content)
    assert made.manifest.family == source.manifest.family
    assert made.manifest.version == "1+r1"
    np.testing.assert_array_equal(made.parameters(), GROWN)
    wanted = source.program("predict")(parameters=GROWN, x=ROWS)["scores"]
    np.testing.assert_allclose(made.program("infer")(x=ROWS)["scores"], wanted, atol=1e-6)
    for name in ("features.onnx", "predict.onnx", "evaluate.onnx"):
        assert made.members[name] == source.members[name]
    said = as_text("table", CHOSEN, built, tmp_path)
    assert "nothing to quantise" in said
    assert "int8" not in said


def test_with_labelled_windows_it_says_how_often_it_is_right(ledger, tmp_path):
    labels = room_for_trees().program("predict")(parameters=GROWN, x=ROWS)["scores"].argmax(axis=1)
    built = build(ledger, room_for_trees(), CHOSEN, Calibration(ROWS, labels), FLEET, "1+r1")
    assert built.comparison is not None
    assert built.comparison.agreement == 1.0
    assert "accuracy on the calibration windows 1.000" in as_text("table", CHOSEN, built, tmp_path)


def test_the_same_trees_give_the_same_bytes():
    one, other = (rebuild(room_for_trees(), GROWN, None, None, "1+r1", {}).content for _ in range(2))
    assert one == other


def test_a_version_that_is_no_forest_is_not_released():
    with pytest.raises(BundleError, match="tree 0"):
        rebuild(room_for_trees(), np.full_like(GROWN, 1e6), None, None, "1+r1", {})
