"""From windows to predictions, and models that must not run."""

import numpy as np
import pytest
from marram.bundle.file import parse
from marram.errors import BundleError, ProgramError
from marram.inference.model import Normal, int8_model, own_model
from marram.programs.program import ProgramOptions
from onnx import helper

from tests.support import models
from tests.support.windows import HOST, SHOULDER, bundle, numbered, shoulder_windows

OPTIONS = ProgramOptions()


def predict(model, windows):
    return model.predict(windows, np.zeros(len(windows)))


def test_a_classifier_names_the_best_label_with_all_scores():
    model = int8_model(parse(models.bundle()), OPTIONS)
    low, high = (
        predict(model, numbered(2, first=-1, shape=(2, 4)))[0],
        predict(model, numbered(1, first=3, shape=(2, 4)))[0],
    )
    assert (low.label, high.label) == ("low", "high")
    assert high.scores == {"low": pytest.approx(0.0025, abs=1e-3), "high": pytest.approx(0.9975, abs=1e-3)}
    assert (high.start, high.end, high.model, high.repaired) == (3.0, 4.0, "tiny 1", False)
    assert high.latency_us > 0
    assert high.score is None


def test_scores_are_told_with_four_places_and_no_more():
    [prediction] = predict(int8_model(bundle(SHOULDER), OPTIONS), shoulder_windows(1)[slice(0, 1)])
    assert all(len(str(score)) <= len("0.1234") for score in prediction.scores.values())


def test_a_batch_gives_what_its_windows_give_one_by_one():
    model, windows = int8_model(bundle(SHOULDER), OPTIONS), shoulder_windows(1)[slice(0, 40)]
    together = predict(model, windows)
    apart = [predict(model, windows[slice(n, n + 1)])[0] for n in range(len(windows))]
    assert [p.label for p in together] == [p.label for p in apart]
    assert [p.start for p in together] == windows.start.tolist()


def host_windows(count, cpu):
    windows = numbered(count, shape=(9, 16))
    windows.values[:] = 10
    windows.values[:, 0] = cpu
    return windows


def test_a_reconstruct_model_scores_and_names_the_channels_that_are_beyond_their_normal():
    made = bundle(HOST)
    usual = predict(own_model(made, made.parameters(), None, OPTIONS), host_windows(1, 10))[0]
    assert (usual.label, usual.threshold, usual.causes) == ("normal", None, ())
    quiet = Normal(usual.score * 1.5, np.full(9, 1, np.float32), np.zeros(9, np.float32))
    quiet.channel_mean[0] = 0
    found = predict(own_model(made, made.parameters(), quiet, OPTIONS), host_windows(1, 100))[0]
    assert found.label == "anomaly"
    assert found.score > found.threshold == quiet.threshold
    assert found.causes[0].channel == "cpu"
    assert sum(cause.share for cause in found.causes) == pytest.approx(1, abs=0.01)
    assert found.model == "host 0 (own)"


def test_parameters_of_another_length_are_refused():
    with pytest.raises(BundleError, match="has 7398 parameters, the device's own are 5"):
        own_model(bundle(HOST), np.zeros(5, np.float32), None, OPTIONS)


def scores(node, shape=("batch", 2), **initializers):
    return parse(
        models.bundle(models.model([node], [models.output("scores", shape)], initializers)), "a.marram"
    )


def test_a_model_whose_scores_are_not_finite_is_refused_before_it_runs():
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Slice", ["mean", "from", "to", "axis"], ["part"]),
        helper.make_node("Log", ["part"], ["scores"]),
    ]
    initializers = {"from": np.array([0]), "to": np.array([2]), "axis": np.array([1])}
    made = parse(
        models.bundle(models.model(nodes, [models.output("scores", ("batch", 2))], initializers)), "a.marram"
    )
    with pytest.raises(ProgramError, match=r"a\.marram: the program's output 'scores' holds NaN or infinity"):
        int8_model(made, OPTIONS)


def test_a_model_that_gives_another_shape_than_it_says_is_refused_before_it_runs():
    node = helper.make_node("ReduceMean", ["x"], ["scores"], axes=[1], keepdims=0)
    with pytest.raises(BundleError, match=r"'scores' should have shape \('batch', 2\), has \('batch', 4\)"):
        int8_model(scores(node, ("batch", "n")), OPTIONS)
