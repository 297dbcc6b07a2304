"""Growing trees: they learn, stand on enough windows, and come out the same again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.learning.forest.grow import binned, grow
from marram.learning.forest.vote import correct, parts
from marram.wire.trees import Room, check

from tests.support.forests import assert_same


def grown(features, labels, classes=2, splits=15, least=3, seed=0):
    windows = binned(features, labels, least)
    return grow(windows, Room(splits, features.shape[1], classes), least, np.random.default_rng(seed))


@st.composite
def tables(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, features, classes = draw(st.integers(1, 80)), draw(st.integers(1, 6)), draw(st.integers(2, 5))
    values = random.normal(size=(rows, features)).astype(np.float32)
    if draw(st.booleans()):
        values = np.round(values)  # many that are equal
    return values, random.integers(classes, size=rows), classes


@given(tables(), st.integers(1, 10), st.integers(1, 20))
@settings(max_examples=60)
def test_any_table_gives_a_sound_tree_whose_leaves_stand_on_enough_windows(table, least, splits):
    values, labels, classes = table
    tree = grown(values, labels, classes, splits, least)
    check(tree, Room(splits, values.shape[1], classes))
    # With a bootstrap sample no leaf has fewer of all windows than it has of those that were drawn.
    marks = tree.__class__(
        tree.feature, tree.threshold, tree.children, np.eye(len(tree.leaves), dtype=np.float32)
    )
    if len(tree.feature):
        assert parts(marks, values).sum(axis=0).min() >= least


@given(tables(), st.integers(1, 10))
@settings(max_examples=60)
def test_a_code_is_the_number_of_edges_below_the_value(table, least):
    """So what was chosen among codes is what a device computes with thresholds."""
    values, labels, _ = table
    windows = binned(values, labels, least)
    for column, edges in enumerate(windows.edges):
        assert (np.diff(edges) > 0).all()
        for edge, threshold in enumerate(edges):
            np.testing.assert_array_equal(windows.codes[:, column] <= edge, values[:, column] <= threshold)


def test_edges_between_neighbouring_floats_part_them():
    low = np.float32(1e6)
    values = np.array([low, np.nextafter(low, np.float32(np.inf))] * 3)[:, None]
    [edges] = binned(values, np.zeros(6, np.int64), 1).edges
    assert edges.tolist() == [low]


def test_a_corner_is_learnt():
    """Two splits, one below the other."""
    values = np.random.default_rng(0).uniform(-1, 1, (400, 2)).astype(np.float32)
    labels = ((values[:, 0] > 0.2) & (values[:, 1] > 0.4)).astype(np.int64)
    assert correct((grown(values, labels),), values, labels)[0] > 380


def test_a_rare_label_weighs_as_much_as_a_frequent_one():
    values = np.zeros((100, 1), np.float32)
    labels = (np.arange(100) < 10).astype(np.int64)
    np.testing.assert_allclose(grown(values, labels).leaves, [[0.5, 0.5]], atol=1e-6)


@pytest.mark.parametrize("labels", [np.zeros(30, np.int64), np.ones(30, np.int64)])
def test_where_there_is_one_label_there_is_nothing_to_split(labels):
    values = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    tree = grown(values, labels)
    assert len(tree.feature) == 0
    assert tree.leaves.argmax() == labels[0]


def test_a_seed_gives_the_same_tree_and_another_another():
    random = np.random.default_rng(0)
    values, labels = random.normal(size=(100, 5)).astype(np.float32), random.integers(2, size=100)
    assert_same(grown(values, labels, seed=1), grown(values, labels, seed=1))
    assert (
        grown(values, labels, seed=1).threshold.tolist() != grown(values, labels, seed=2).threshold.tolist()
    )
