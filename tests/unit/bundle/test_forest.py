"""A forest as a flat vector: packed and unpacked, and refused where it is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.bundle.forest import Forest, Layout, say
from marram.errors import BundleError

from tests.support.forests import PROJECT, ROOM, assert_same, forest, layout, room_for_trees, trees
from tests.support.windows import SHOULDER, bundle

LAYOUT = Layout(6, ROOM)
weights = st.floats(0.125, 100, width=32)


@given(st.lists(st.tuples(trees(), weights), min_size=1, max_size=LAYOUT.slots))
def test_what_was_packed_is_unpacked(members):
    made = Forest(tuple(tree for tree, _ in members), np.array([weight for _, weight in members]))
    vector = LAYOUT.pack(made)
    assert vector.shape == (LAYOUT.size,)
    assert LAYOUT.count(vector) == len(members)
    found = LAYOUT.unpack(vector)
    np.testing.assert_array_equal(found.weights, made.weights)
    for one, other in zip(made.trees, found.trees, strict=True):
        assert_same(one, other)
    np.testing.assert_array_equal(LAYOUT.pack(found), vector)


def test_the_layout_is_read_from_the_manifest():
    assert layout() == LAYOUT
    assert room_for_trees().manifest.parameter_count == LAYOUT.size
    assert len(PROJECT["labels"]) == LAYOUT.room.classes


def test_a_forest_can_be_trained_and_another_features_program_is_another_family():
    plain, other = room_for_trees().manifest, room_for_trees(features=("mean",)).manifest
    assert plain.trainable and plain.forest
    assert not bundle(SHOULDER).manifest.forest
    assert plain.parameters == other.parameters
    assert plain.family != other.family


@pytest.mark.parametrize("count", [0, 7])
def test_no_tree_and_too_many_are_refused(count):
    with pytest.raises(BundleError, match="1 to 6"):
        LAYOUT.pack(forest(*range(1, count + 1)))


def spoilt(name, value):
    vector = LAYOUT.pack(forest(1, 2, 3))
    at = 0
    for tensor in LAYOUT.tensors():
        if tensor.name == name:
            vector[at] = value
        at += int(np.prod(tensor.shape))
    return vector


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("feature", 3, "feature 3"), ("feature", -1, "counted from 0"), ("threshold", np.nan, "finite"),
        ("left", 14, "no such node"), ("left", -1, "no such node"), ("leaf", -0.5, "leaf"),
        ("weight", -1, "less than none"),
    ],
)  # fmt: skip
def test_a_spoilt_forest_is_refused_and_says_where(name, value, why):
    with pytest.raises(BundleError, match=why):
        LAYOUT.unpack(spoilt(name, value))


def test_a_vector_of_another_length_and_one_without_votes_are_refused():
    with pytest.raises(BundleError, match="not a forest of"):
        LAYOUT.unpack(np.zeros(LAYOUT.size - 1, np.float32))
    with pytest.raises(BundleError, match="no tree"):
        LAYOUT.unpack(np.zeros(LAYOUT.size, np.float32))


@given(st.integers(1, 1000), st.integers(2, 30))
def test_who_is_more_often_right_has_more_to_say_and_who_guesses_has_nothing(count, classes):
    said = say(np.arange(count + 1), count, classes)
    assert (np.diff(said) >= 0).all()
    assert np.isfinite(said).all()
    assert said[0] == 0 or classes > 2 * count
    assert said[count] > 0
