"""A forest's programs: all of them say what the trees say, of windows at the thresholds too."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.bundle.forest import Forest, Layout
from marram.learning.forest.vote import parts
from marram.programs.program import load
from marram_cloud.trees import features, programs
from marram_cloud.trees.build import untaught
from marram_cloud.trees.features import of_windows

from tests.support.forests import ROOM, random_tree

LAYOUT = Layout(6, ROOM)
VALUES = features.program("values", ROOM.features, 1)
PREDICT = load(programs.predict(VALUES, LAYOUT), "onnx")
EVALUATE = load(programs.evaluate(VALUES, LAYOUT), "onnx")


def scores(forest, rows):
    votes = np.stack([parts(tree, rows) for tree in forest.trees], axis=1).astype(np.float64)
    return np.average(votes, axis=1, weights=forest.weights)


@st.composite
def cases(draw):
    """(forest, rows): half of the values are thresholds, or the numbers next to them."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, LAYOUT.slots))
    trees = tuple(random_tree(int(random.integers(2**32))) for _ in range(count))
    rows = random.normal(size=(draw(st.integers(1, 9)), ROOM.features)).astype(np.float32)
    thresholds = np.concatenate([tree.threshold for tree in trees])
    if len(thresholds):
        drawn = random.choice(thresholds, rows.shape)
        near = np.nextafter(drawn, random.choice(np.array([-np.inf, np.inf], np.float32), rows.shape))
        rows = np.choose(random.integers(3, size=rows.shape), [rows, drawn, near]).astype(np.float32)
    return Forest(trees, random.uniform(0.1, 3, count).astype(np.float32).astype(float)), rows


@given(cases())
@settings(max_examples=60)
def test_predict_infer_and_the_trees_agree(case):
    forest, rows = case
    vector, x, wanted = LAYOUT.pack(forest), rows[:, :, None], scores(forest, rows)
    np.testing.assert_allclose(PREDICT(parameters=vector, x=x)["scores"], wanted, atol=1e-6)
    infer = load(programs.infer(VALUES, LAYOUT, vector), "onnx")
    np.testing.assert_allclose(infer(x=x)["scores"], wanted, atol=1e-6)


@given(cases(), st.integers(0, 2**32))
@settings(max_examples=30)
def test_evaluate_sums_loss_and_right_labels_of_the_windows_that_count(case, seed):
    forest, rows = case
    random = np.random.default_rng(seed)
    y, weight = random.integers(ROOM.classes, size=len(rows)), random.integers(2, size=len(rows))
    out = EVALUATE(parameters=LAYOUT.pack(forest), x=rows[:, :, None], y=y, weight=weight.astype(np.float32))
    said = scores(forest, rows)
    sure = np.maximum(said[np.arange(len(rows)), y], 1e-7)
    np.testing.assert_allclose(out["loss"], (weight * -np.log(sure)).sum(), rtol=1e-4, atol=1e-4)
    assert out["count"] == weight.sum()
    # Where two labels are as likely to the last bit, either may come first.
    clear = np.abs(np.diff(np.sort(said, axis=1)[:, -2:], axis=1))[:, 0] > 1e-6
    right = weight * (said.argmax(axis=1) == y)
    assert right[clear].sum() <= out["correct"] <= right[clear].sum() + weight[~clear].sum()


def test_every_label_is_as_likely_to_a_forest_that_has_learnt_nothing():
    vector = LAYOUT.pack(untaught(ROOM))
    x = np.zeros((2, ROOM.features, 1), np.float32)
    for program in (load(programs.infer(VALUES, LAYOUT, vector), "onnx"), PREDICT):
        more = {"parameters": vector} if program is PREDICT else {}
        np.testing.assert_allclose(program(x=x, **more)["scores"], 0.5)


def test_infer_is_the_runtimes_own_operator_and_no_larger_than_its_trees():
    vector = LAYOUT.pack(Forest((random_tree(1, splits=1),), np.ones(1)))
    content = programs.infer(VALUES, LAYOUT, vector)
    [node] = [one for one in onnx.load_from_string(content).graph.node if one.domain == "ai.onnx.ml"]
    assert node.op_type == "TreeEnsembleRegressor"
    [ids] = [one.ints for one in node.attribute if one.name == "nodes_nodeids"]
    assert list(ids) == [0, 1, 2]


# ---- features

WINDOWS = np.random.default_rng(0).normal(5, 2, (4, 2, 10)).astype(np.float32)
STATISTICS = {
    "mean": lambda x: x.mean(axis=2),
    "deviation": lambda x: x.std(axis=2),
    "minimum": lambda x: x.min(axis=2),
    "maximum": lambda x: x.max(axis=2),
    "rms": lambda x: np.sqrt((x**2).mean(axis=2)),
    "change": lambda x: np.abs(np.diff(x, axis=2)).mean(axis=2),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_is_that_of_each_channel(name):
    content = features.program((name,), 2, 10)
    wanted = STATISTICS[name](WINDOWS.astype(np.float64))
    np.testing.assert_allclose(of_windows(content, WINDOWS), wanted, rtol=1e-5)


def test_all_of_a_channel_come_before_those_of_the_next():
    content = features.program(("mean", "maximum"), 2, 10)
    found = of_windows(content, WINDOWS)
    np.testing.assert_allclose(found[:, 1], WINDOWS[:, 0].max(axis=1))
    np.testing.assert_allclose(found[:, 2], WINDOWS[:, 1].mean(axis=1), rtol=1e-5)
    assert features.names(("mean", "maximum"), ["a", "b"], 10) == [
        "a.mean", "a.maximum", "b.mean", "b.maximum",
    ]  # fmt: skip


def test_values_are_the_samples_of_each_channel():
    np.testing.assert_array_equal(
        of_windows(features.program("values", 2, 10), WINDOWS), WINDOWS.reshape(4, 20)
    )
    assert features.names("values", ["a", "b"], 1) == ["a", "b"]
    assert features.names("values", ["a"], 2) == ["a[0]", "a[1]"]


def test_one_sample_does_not_change():
    assert of_windows(features.program(("change",), 2, 1), WINDOWS[:, :, :1]).tolist() == [[0, 0]] * 4
