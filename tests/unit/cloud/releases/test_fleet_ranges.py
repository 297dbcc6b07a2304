"""What a release's int8 rests on: what devices see, where enough told it; else calibration windows."""

import numpy as np
import pytest
from marram.bundle.file import parse
from marram.learning.int8 import blocks, extremes
from marram.storage import open_database
from marram.wire.ranges import decode, encode
from marram_cloud.compression.ranges import difference
from marram_cloud.ledger import ledger as ledgers
from marram_cloud.ledger.ledger import Ledger
from marram_cloud.releases.build import as_text, build
from marram_cloud.releases.calibration import Calibration, CalibrationError
from marram_cloud.releases.choose import Stretch
from marram_cloud.releases.fleet_ranges import FromFleet

from tests.support.aggregator import NOW
from tests.support.training import filled_store, job, run
from tests.support.windows import SHOULDER, bundle, shoulder_windows

FLEET = FromFleet(devices=4, trim=0.2)
CHOSEN = Stretch((0,), 4, 0.5, 0.9)
LIMIT = 1e6
PROGRAM = bytes.fromhex(bundle(SHOULDER).manifest.members["calibrate.onnx"])


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learnt")
    filled_store(folder / "windows.db").close(0.0)
    run(job(folder, epochs=6, learning_rate=0.03))
    return np.fromfile(folder / "training" / "parameters.f32", "<f4")


@pytest.fixture
def ledger(tmp_path, learnt):
    ledger = Ledger(open_database(tmp_path / "ledger.db", ledgers.SCHEMA))
    ledger.add_version(0, learnt, learnt.astype(float), None, NOW)
    return ledger


def tell(ledger, device, minimum, maximum):
    """What a device says, as it comes through the wire."""
    low, high = decode(encode(minimum, maximum, LIMIT), len(minimum), LIMIT)
    ledger.add_ranges(0, device, PROGRAM, low, high)


def people_tell(ledger, learnt, people):
    program = bundle(SHOULDER).program("calibrate")
    for person in people:
        seen = extremes(program, learnt, blocks(shoulder_windows(person).values, 16))
        low, high = seen.minimum.astype(float), seen.maximum.astype(float)
        tell(ledger, f"device-{person}", np.quantile(low, 0.1, axis=0), np.quantile(high, 0.9, axis=0))


def shifted():
    """Calibration windows of a sensor at rest: a tenth of what devices see."""
    return Calibration(shoulder_windows(1).values[:200] * np.float32(0.1))


def error(release, learnt, person=6):
    """Of int8 against float32, on the windows of somebody who told nothing."""
    made, windows = parse(release.content), shoulder_windows(person).values
    exact = made.program("predict")(parameters=learnt, x=windows)
    return difference(exact, made.program("infer")(x=windows))


def test_a_release_for_what_devices_see_is_nearer_to_float32_than_one_for_other_windows(ledger, learnt):
    usual = build(ledger, bundle(SHOULDER), CHOSEN, shifted(), FLEET, "1+r0")
    assert "200 calibration windows (0 devices have told their ranges, 4 are needed)" in usual.source
    people_tell(ledger, learnt, (1, 2, 3, 4, 5))
    release = build(ledger, bundle(SHOULDER), CHOSEN, shifted(), FLEET, "1+r0")
    assert release.source == "the ranges that 5 devices measured"
    assert error(release, learnt) < 0.5 * error(usual, learnt)


def test_a_liar_among_them_changes_little(ledger, learnt):
    people_tell(ledger, learnt, (1, 2, 3, 4, 5))
    honest = error(build(ledger, bundle(SHOULDER), CHOSEN, None, FLEET, "1+r0"), learnt)
    count = len(bundle(SHOULDER).manifest.int8.activations)
    tell(ledger, "device-9", np.full(count, -1e6), np.full(count, 1e6))
    release = build(ledger, bundle(SHOULDER), CHOSEN, None, FLEET, "1+r0")
    assert release.source == "the ranges that 6 devices measured"
    assert error(release, learnt) < 2 * honest


def test_fewer_devices_than_are_needed_do_not_count_and_it_is_said(ledger, learnt):
    people_tell(ledger, learnt, (1, 2, 3))
    release = build(ledger, bundle(SHOULDER), CHOSEN, shifted(), FLEET, "1+r0")
    assert "3 devices have told their ranges, 4 are needed" in release.source
    assert "int8 rests on 200 calibration windows" in as_text("shoulder", CHOSEN, release, SHOULDER)


def test_without_calibration_windows_the_fleet_must_be_enough(ledger, learnt):
    people_tell(ledger, learnt, (1,))
    with pytest.raises(CalibrationError, match="1 devices have told their ranges, 4 are needed"):
        build(ledger, bundle(SHOULDER), CHOSEN, None, FLEET, "1+r0")
    people_tell(ledger, learnt, (2, 3, 4))
    release = build(ledger, bundle(SHOULDER), CHOSEN, None, FLEET, "1+r0")
    assert release.comparison is None
    assert parse(release.content).manifest.int8 is not None


def test_ranges_of_another_calibrate_program_do_not_count(ledger, learnt):
    for number in range(5):
        ledger.add_ranges(0, f"device-{number}", b"other" * 6 + b"!!", np.zeros(8), np.ones(8))
    with pytest.raises(CalibrationError, match="0 devices"):
        build(ledger, bundle(SHOULDER), CHOSEN, None, FLEET, "1+r0")


def test_a_release_measures_ranges_by_the_very_program_of_the_bundle_before(ledger, learnt):
    """Else devices that run it could tell nothing any more."""
    people_tell(ledger, learnt, (1, 2, 3, 4))
    release = parse(build(ledger, bundle(SHOULDER), CHOSEN, None, FLEET, "1+r0").content)
    assert release.members["calibrate.onnx"] == bundle(SHOULDER).members["calibrate.onnx"]
    assert release.manifest.int8 == bundle(SHOULDER).manifest.int8
