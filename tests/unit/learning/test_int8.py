"""Parameters of the device's own in int8: made in the trainer child, judged there, run by the daemon."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from marram.bundle.file import encode
from marram.inference.model import own_int8_model, own_model
from marram.learning import int8 as int8_module
from marram.learning.int8 import (
    Judge,
    decode_arrays,
    encode_arrays,
    in_int8,
    no_slower,
    normal_scores,
    one_window,
)
from marram.learning.store import TrainingSet
from marram.learning.trainer import Int8Limits, Int8Outcome
from marram.programs.program import ProgramOptions

from tests.support.training import filled_store, job, run
from tests.support.windows import HOST, SHOULDER, bundle, host_windows, shoulder_windows

LIMITS = Int8Limits(agreement=0.95, accuracy=0.02, score=0.25)
OPTIONS = ProgramOptions()
NO_TIME = np.zeros(64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("device")
    filled_store(made / "windows.db").close(0.0)
    return made


@pytest.fixture(scope="module")
def trained(folder):
    """(what the child said, its folder) after some epochs on real windows."""
    output = folder / "trained"
    result = run(job(folder, output=str(output), epochs=8, learning_rate=0.03, int8=LIMITS))
    assert result.int8.used, result.int8.reason
    return result, output


def test_the_child_leaves_int8_that_says_what_float32_says(trained):
    result, output = trained
    parameters = np.fromfile(output / "parameters.f32", "<f4")
    arrays = decode_arrays((output / "int8.safetensors").read_bytes())
    source, windows = bundle(SHOULDER), shoulder_windows(1)
    some = windows[:64]
    exact = own_model(source, parameters, None, OPTIONS).predict(some, NO_TIME)
    coarse = own_int8_model(source, arrays, None, OPTIONS).predict(some, NO_TIME)
    alike = np.mean([a.label == b.label for a, b in zip(exact, coarse, strict=True)])
    assert alike >= 0.95
    assert coarse[0].model == "shoulder 0 (own, int8)"
    assert result.int8.agreement >= 0.95
    assert abs(result.int8.int8 - result.int8.fp32) <= 0.05


@pytest.mark.parametrize("limits", [Int8Limits(0.95, 0.02, 0.25), Int8Limits(1.0, 0.0, 0.0)])
def test_int8_as_good_as_asked_for_is_used(trained, folder, limits):
    """The strictest still allows one window: on a few windows one of them proves nothing."""
    result = run(job(folder, output=str(folder / "again"), epochs=8, learning_rate=0.03, int8=limits))
    different = round((1 - result.int8.agreement) * result.int8.windows)
    assert result.int8.used == (different <= max((1 - limits.agreement) * result.int8.windows, 1))


@pytest.mark.parametrize(
    ("fp32", "int8", "used"),
    [(22.0, 16.0, True), (20.0, 20.5, True), (8.0, 12.0, False), (100.0, 144.0, False)],
)
def test_what_is_as_good_runs_only_where_it_is_no_slower(fp32, int8, used):
    outcome = no_slower(Int8Outcome(True, "", 10), fp32, int8)
    assert (outcome.used, outcome.fp32_us, outcome.int8_us) == (used, fp32, int8)
    assert outcome.reason == ("" if used else f"int8 takes {int8:.0f} us for a window, float32 {fp32:.0f} us")


@pytest.mark.parametrize(("fp32", "int8"), [(3e-5, 2e-5), (0.9, 1.2)])
def test_both_are_timed_for_one_window_in_turns_and_not_for_long(monkeypatch, fp32, int8):
    now, turns = [0.0], []

    def run(name, seconds):
        def takes(x):
            assert len(x) == 1
            now[0] += seconds * (3 if not turns else 1)  # the first is slow
            turns.append(name)
            return {}

        return takes

    monkeypatch.setattr(int8_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    window = np.zeros((1, 2, 3), np.float32)
    found = one_window(run("fp32", fp32), run("int8", int8), window)
    assert turns[::2] == ["fp32"] * (len(turns) // 2)
    assert now[0] < 6.0
    if len(turns) > 4:
        assert found == pytest.approx((fp32 * 1e6, int8 * 1e6))


def test_a_reconstruct_model_is_judged_by_its_scores(tmp_path):
    filled_store(tmp_path / "windows.db", host_windows(), HOST).close(0.0)

    def outcome(limits, name):
        output = str(tmp_path / name)
        work = job(tmp_path, bundle=str(HOST), output=output, epochs=5, calibrate=True, int8=limits)
        return run(work).int8

    good = outcome(LIMITS, "good")
    assert good.used
    assert 0 < good.score < 0.25
    assert good.normal.threshold > 0
    bad = outcome(Int8Limits(0.95, 0.02, good.score / 2), "bad")
    assert (bad.used, bad.reason[:14]) == (False, "scores are off")
    assert not (tmp_path / "bad" / "int8.safetensors").exists()


def test_a_bundle_that_cannot_be_made_int8_by_a_device_still_trains(tmp_path):
    source = bundle(SHOULDER)
    programs = {role: entry for role, entry in source.manifest.programs.items() if role != "calibrate"}
    members = {name: data for name, data in source.members.items() if name != "calibrate.onnx"}
    plain = tmp_path / "plain.marram"
    plain.write_bytes(encode(msgspec.structs.replace(source.manifest, programs=programs, int8=None), members))
    filled_store(tmp_path / "windows.db").close(0.0)
    result = run(job(tmp_path, bundle=str(plain), epochs=1, int8=LIMITS, ranges=True))
    assert result.steps > 0
    assert (result.int8.used, result.ranges) == (False, None)
    assert "no calibrate program" in result.int8.reason


def test_the_arrays_are_the_same_after_the_disk(trained):
    source = bundle(SHOULDER)
    arrays = in_int8(source, source.parameters(), shoulder_windows(1).values[:64], OPTIONS)
    again = decode_arrays(encode_arrays(arrays))
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)
    assert encode_arrays(again) == encode_arrays(arrays)


# ---- the judge


def judged(exact, coarse, labels=None, new=False, **limits):
    """exact, coarse: a score a window, or labels that each says of it."""
    limits = Int8Limits(**{"agreement": 0.9, "accuracy": 0.05, "score": 0.1, **limits})
    count = len(exact)
    data = TrainingSet(
        np.arange(count, dtype=np.float32).reshape(count, 1, 1),
        np.full(count, -1) if labels is None else np.array(labels),
    )

    def runs(values):
        def run(x):
            chosen = np.asarray(values)[x[:, 0, 0].astype(int)]
            if labels is not None:
                return {"scores": np.eye(3, dtype=np.float32)[chosen]}
            return {"score": chosen.astype(np.float32), "channel_scores": chosen[:, None].astype(np.float32)}

        return run

    judge = Judge(limits, runs(exact), runs(coarse), labels is not None)
    normal = None if labels is not None else normal_scores(runs(np.ones(count)), data.values)
    return judge.on(data, normal, normal, new)


def test_a_loss_of_accuracy_beyond_the_limit_is_refused_though_the_agreement_is_enough():
    truth = [0] * 100
    found = judged([0] * 100, [1] * 8 + [0] * 92, truth)
    assert (found.used, found.reason) == (False, "accuracy falls from 1.000 to 0.920 in int8")
    assert judged([1] * 8 + [0] * 92, [0] * 100, truth).used


def test_disagreement_beyond_the_limit_is_refused_with_both_figures():
    found = judged([0] * 50 + [1] * 50, [0] * 60 + [2] * 40, [-1] * 100)
    assert not found.used
    assert "50.0% of 100 windows, 90.0% is asked for" in found.reason


def test_one_window_decides_nothing():
    assert judged([0, 0, 0], [0, 0, 1], [0, 0, 0], agreement=1.0, accuracy=0.0).used
    assert not judged([0, 0, 0], [0, 1, 1], [0, 0, 0], agreement=1.0, accuracy=0.0).used


def test_scores_that_are_off_are_refused_on_normal_windows_and_not_on_new_ones():
    assert judged([1.0] * 10, [1.05] * 10).used
    assert not judged([1.0] * 10, [1.3] * 10).used
    assert judged([1.0] * 10, [1.3] * 10, new=True).used  # neither says that it is an anomaly
    assert not judged([1.0] * 10, [3.0] * 10, new=True).used


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value):
    assert judged([1.0, 1.0], [1.0, value]).reason == "int8 gives NaN or infinity"


# ---- ranges for the fleet


def test_ranges_are_told_of_enough_windows_and_not_of_few(folder, tmp_path):
    told = run(job(folder, output=str(tmp_path / "out"), epochs=0, ranges=True)).ranges
    activations = bundle(SHOULDER).manifest.int8.activations
    assert [len(end) for end in told] == [len(activations)] * 2
    assert all(low <= high for low, high in zip(*told, strict=True))
    few = shoulder_windows(1)[:100]
    filled_store(tmp_path / "windows.db", few).close(0.0)
    assert run(job(tmp_path, epochs=0, ranges=True)).ranges is None


def test_no_single_window_stretches_the_ranges_that_are_told(tmp_path):
    """One window, a thousand times as wild as the others, moves nothing by more than others do."""
    windows = shoulder_windows(1)

    def told(values, name):
        folder = tmp_path / name
        filled_store(
            folder / "windows.db",
            type(windows)(windows.start, windows.end, values, windows.labels, windows.repaired),
        ).close(0.0)
        return np.array(run(job(folder, epochs=0, ranges=True)).ranges)

    usual = told(windows.values, "usual")
    wild = windows.values.copy()
    wild[7] *= 1000
    np.testing.assert_allclose(told(wild, "wild"), usual, atol=0.2 * np.abs(usual).max())
