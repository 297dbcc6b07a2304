"""Where nobody said a budget: int8 loses little, or what loses most stays in float."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.bundle.file import parse
from marram.programs.program import load
from marram_cloud.compression.bound import compare, keep_float
from marram_cloud.compression.folding import fold
from marram_cloud.compression.operators import layers
from marram_cloud.compression.programs import int8_programs
from marram_cloud.compression.ranges import measure
from marram_cloud.releases.rebuild import rebuild

from tests.support.windows import SHOULDER, bundle, shoulder_windows


@pytest.fixture(scope="module")
def model():
    """(predict.onnx, parameters, ranges, windows)."""
    source = bundle(SHOULDER)
    predict, parameters = source.members["predict.onnx"], source.parameters()
    windows = shoulder_windows(1).values[:200]
    return predict, parameters, measure(predict, parameters, windows), windows


def spoilt(ranges, *names):
    """So wide that int8 tells hardly any values apart."""
    return {name: (-1e4, 1e4) if name in names else limits for name, limits in ranges.items()}


def every_layer(predict, parameters):
    return [one.name for one in layers(fold(predict, parameters))]


def test_int8_that_loses_little_is_int8_throughout(model):
    kept = keep_float(*model, labels=None)
    assert (kept.layers, kept.all) == ((), False)
    assert str(kept).startswith("int8; probabilities are off by 0.")


def test_a_layer_that_loses_too_much_stays_in_float_and_the_others_do_not(model):
    predict, parameters, ranges, windows = model
    last = list(ranges)[-2]
    kept = keep_float(predict, parameters, spoilt(ranges, last), windows, None)
    everything = every_layer(predict, parameters)
    assert 0 < len(kept.layers) < len(everything)
    assert not kept.all
    int8 = int8_programs(predict, parameters, spoilt(ranges, last), kept.layers).infer
    exact = load(predict, "onnx")(parameters=parameters, x=windows)
    assert not compare(exact, load(int8, "onnx")(x=windows), None).too_much


def test_where_nothing_helps_all_stays_in_float_and_runs(model):
    predict, parameters, ranges, windows = model
    bad = spoilt(ranges, *ranges)
    kept = keep_float(predict, parameters, bad, windows, None)
    assert kept.all
    assert list(kept.layers) == every_layer(predict, parameters)
    assert str(kept).startswith("float32, for int8 would lose too much (probabilities are off by")
    made = int8_programs(predict, parameters, bad, kept.layers)
    assert made.calibrate is None
    exact = load(predict, "onnx")(parameters=parameters, x=windows)
    np.testing.assert_allclose(load(made.infer, "onnx")(x=windows)["scores"], exact["scores"], atol=1e-6)


def test_a_release_keeps_the_bound_too(model):
    _, parameters, ranges, windows = model
    source = bundle(SHOULDER)
    release = parse(rebuild(source, parameters, spoilt(ranges, *ranges), windows, "1+r1", {}).content)
    exact = source.program("predict")(parameters=parameters, x=windows)
    np.testing.assert_allclose(release.program("infer")(x=windows)["scores"], exact["scores"], atol=1e-6)
    assert "calibrate" not in release.manifest.programs


def scores(labels):
    return {"scores": np.eye(3, dtype=np.float32)[labels]}


@pytest.mark.parametrize(
    ("windows", "wrong", "too_much"),
    [(1000, 5, False), (1000, 20, True), (40, 1, False), (40, 3, False), (40, 8, True)],
)
def test_accuracy_may_fall_by_a_point_and_by_what_may_be_chance(windows, wrong, too_much):
    labels = np.zeros(windows, np.int64)
    said = labels.copy()
    said[:wrong] = 1
    assert compare(scores(labels), scores(said), labels).too_much == too_much


@given(st.integers(2, 100), st.integers(0, 1000))
def test_windows_that_change_sides_both_ways_lose_nothing(many, seed):
    """As of a model that has learnt nothing yet."""
    labels = np.zeros(2 * many, np.int64)
    first = np.repeat([0, 1], many)
    order = np.random.default_rng(seed).permutation(2 * many)
    assert not compare(scores(first[order]), scores(1 - first[order]), labels).too_much


@pytest.mark.parametrize(("factor", "too_much"), [(1.2, False), (1.3, True), (np.nan, True)])
def test_scores_of_models_without_labels_may_be_off_by_a_quarter(factor, too_much):
    exact = {"score": np.full(10, 0.5, np.float32)}
    assert compare(exact, {"score": exact["score"] * np.float32(factor)}, None).too_much == too_much
