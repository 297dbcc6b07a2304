"""From parameters to an int8 bundle that can be signed as a release."""

import numpy as np
import pytest
from marram.bundle.file import encode, parse
from marram.storage import open_database
from marram.wire.messages import Metrics, Steps
from marram_cloud.compression.folding import fold
from marram_cloud.compression.operators import layers
from marram_cloud.compression.programs import int8_programs
from marram_cloud.compression.ranges import measure
from marram_cloud.ledger import ledger as ledgers
from marram_cloud.ledger.ledger import Ledger, LedgerError, Round, StoredDelta
from marram_cloud.releases.build import build
from marram_cloud.releases.calibration import Calibration, CalibrationError, read_calibration
from marram_cloud.releases.choose import Stretch
from marram_cloud.releases.fleet_ranges import FromFleet
from marram_cloud.releases.rebuild import rebuild

from tests.support.aggregator import NOW
from tests.support.training import filled_store, job, run
from tests.support.windows import SHOULDER, bundle


@pytest.fixture(scope="module")
def calibration():
    return read_calibration(SHOULDER.parent / "calibration.npz", 6, 100)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Parameters that have learnt something: a few epochs on one person."""
    folder = tmp_path_factory.mktemp("learnt")
    filled_store(folder / "windows.db").close(0.0)
    result = run(job(folder, epochs=6, learning_rate=0.03))
    assert result.after.accuracy > 0.6
    return np.fromfile(folder / "training" / "parameters.f32", "<f4")


@pytest.fixture
def ledger(tmp_path, learnt):
    ledger = Ledger(open_database(tmp_path / "ledger.db", ledgers.SCHEMA))
    initial = bundle(SHOULDER).parameters()
    ledger.add_version(0, initial, initial.astype(float), None, NOW)
    ledger.add_version(1, learnt, learnt.astype(float), None, NOW)
    return ledger


CHOSEN = Stretch((1,), 3, 0.5, 0.9)
FLEET = FromFleet(devices=3, trim=0.2)


@pytest.fixture(scope="module")
def ranges(learnt, calibration):
    return measure(bundle(SHOULDER).members["predict.onnx"], learnt, calibration.windows)


def test_the_same_parameters_give_the_same_bytes(learnt, ranges):
    source = bundle(SHOULDER)
    first, second = (
        rebuild(source, learnt, ranges, None, "1+r1", {"devices": 3.0}).content for _ in range(2)
    )
    assert first == second


def test_a_rebuilt_bundle_is_of_the_same_family_with_the_new_parameters(learnt, ranges):
    made = parse(rebuild(bundle(SHOULDER), learnt, ranges, None, "5+r1", {"devices": 3.0}).content)
    assert made.manifest.family == bundle(SHOULDER).manifest.family
    assert made.manifest.version == "5+r1"
    assert made.manifest.card.metrics["devices"] == 3.0
    np.testing.assert_array_equal(made.parameters(), learnt)
    for name in ("train.onnx", "evaluate.onnx", "predict.onnx"):
        assert made.members[name] == bundle(SHOULDER).members[name]
    assert len(rebuild(bundle(SHOULDER), learnt, ranges, None, "5", {}).content) < 200_000


def test_a_layer_that_the_bundle_has_in_float_stays_so_in_its_releases(learnt, ranges):
    source = bundle(SHOULDER)
    predict, parameters = source.members["predict.onnx"], source.parameters()
    layer = layers(fold(predict, parameters))[-1]
    mixed = int8_programs(predict, parameters, ranges, [layer.name])
    made = parse(encode(*mixed.put_into(source.manifest, source.members)))
    release = parse(rebuild(made, learnt, ranges, None, "1+r1", {}).content)
    assert release.members["calibrate.onnx"] == made.members["calibrate.onnx"]
    assert layer.weight in release.manifest.int8.floats
    assert layer.weight not in {one.tensor for one in release.manifest.int8.weights}


def test_the_mean_of_the_chosen_versions_is_released(ledger, calibration, learnt):
    both = Stretch((0, 1), 3, 0.5, 0.9)
    release = build(ledger, bundle(SHOULDER), both, calibration, FLEET, "1+r1")
    made = parse(release.content)
    np.testing.assert_allclose(made.parameters(), (bundle(SHOULDER).parameters() + learnt) / 2, atol=1e-6)
    assert made.manifest.card.metrics["averaged_versions"] == 2.0


def test_a_version_that_nobody_evaluated_carries_no_figures(ledger, calibration):
    nobody = Stretch((1,), 0, 0.0, None)
    release = build(ledger, bundle(SHOULDER), nobody, calibration, FLEET, "1+r1")
    metrics = parse(release.content).manifest.card.metrics
    assert "loss_fp32_devices" not in metrics
    assert "accuracy_fp32_devices" not in metrics


def test_a_version_that_is_not_kept_cannot_be_released(ledger, calibration):
    with pytest.raises(LedgerError, match="version 9"):
        build(ledger, bundle(SHOULDER), Stretch((9,), 3, 1.0, 0.9), calibration, FLEET, "1+r1")


def test_the_devices_evaluations_are_those_of_the_rounds_base(ledger):
    ledger.open_round(Round(0, 1, "float32", 1, Steps(1, 16, 0.05), NOW))
    before, after = Metrics(10, 1.0, 0.5), Metrics(10, 0.5, 0.8)
    ledger.add_delta(StoredDelta(0, "device-1", b"d" * 32, 5, before, after, 100, 1, b"payload"), NOW)
    assert ledger.evaluations() == {1: [("device-1", before)]}


def test_int8_is_compared_with_fp32_on_the_calibration_windows(ledger, calibration):
    alone = build(ledger, bundle(SHOULDER), CHOSEN, calibration, FLEET, "1+r1").comparison
    assert alone.agreement > 0.9
    assert (alone.fp32, alone.int8) == (None, None)
    labelled = Calibration(calibration.windows, np.zeros(len(calibration.windows), np.int64))
    both = build(ledger, bundle(SHOULDER), CHOSEN, labelled, FLEET, "1+r1").comparison
    assert both.agreement == alone.agreement
    assert 0 < both.fp32 < 1
    assert abs(both.fp32 - both.int8) <= 1 - both.agreement


@pytest.mark.parametrize("labels", [np.zeros(3, np.int64), np.zeros(2, np.float32)])
def test_labels_that_do_not_fit_the_windows_are_refused(tmp_path, labels):
    np.savez(tmp_path / "c.npz", windows=np.zeros((2, 6, 100), np.float32), labels=labels)
    with pytest.raises(CalibrationError, match=r"c\.npz"):
        read_calibration(tmp_path / "c.npz", 6, 100)
