"""The rule that makes a forest of what devices tell: who stays, who comes, who has how much to say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.bundle.forest import Layout, say
from marram_cloud.strategies.forest import Forest
from marram_cloud.trees.build import untaught

from tests.support.forests import ROOM, assert_same, contribution, forest, random_tree, trees

LAYOUT = Layout(8, ROOM)
NEW = [random_tree(100 + number, splits=3) for number in range(12)]
START = LAYOUT.pack(untaught(ROOM)).astype(float)


def merged(told, parameters=START, state=None, **rule):
    vector, after = Forest(**rule).merge(LAYOUT, parameters, told, state)
    return LAYOUT.unpack(vector.astype(np.float32)), vector, after


def first_round():
    """Two trees of each of three devices."""
    return merged({name: contribution(*NEW[2 * n : 2 * n + 2]) for n, name in enumerate("abc")})


def test_the_first_trees_take_the_place_of_the_forest_that_has_learnt_nothing():
    found, _, _ = first_round()
    assert len(found.trees) == 6
    assert found.weights.tolist() == [1.0] * 6


def test_devices_take_turns_so_that_none_fills_the_forest_alone():
    found, _, _ = merged(
        {"a": contribution(*NEW[:8]), "b": contribution(NEW[8]), "c": contribution(*NEW[9:11])}
    )
    wanted = [NEW[0], NEW[8], NEW[9], NEW[1], NEW[10], NEW[2], NEW[3], NEW[4]]
    for one, other in zip(wanted, found.trees, strict=True):
        assert_same(one, other)


def scores(*correct, count=20):
    return contribution(correct=correct, count=count)


def test_a_tree_has_as_much_to_say_as_it_is_right_on_the_windows_of_others():
    _, vector, state = first_round()
    told = {
        "a": scores(20, 20, 20, 10, 20, 20),
        "b": scores(18, 12, 0, 0, 10, 20),
        "d": scores(19, 10, 10, 20, 15, 20),
    }
    found, _, after = merged(told, vector, state)
    # In the forest they stand in turns: of a, b, c, then of a, b, c.
    right = {0: 18 + 19, 1: 20 + 10, 2: 20 + 0 + 10, 3: 0 + 20, 4: 20 + 15, 5: 60}
    count = {0: 40, 1: 40, 2: 60, 3: 40, 4: 40, 5: 60}
    by_rank = sorted(right, key=lambda place: (-(right[place] + 0.5) / (count[place] + 1), place))
    wanted = [say(np.array(right[place]), count[place], 2) for place in by_rank]
    chance = wanted.index(0.0)  # it was right of every second window: no better than a guess
    assert by_rank[chance:] == [3, 2] or by_rank[chance:] == [2, 3]
    np.testing.assert_allclose(found.weights, wanted[:chance], rtol=1e-6)
    assert after.reshape(-1, 3)[chance:].any() == False  # noqa: E712


def test_the_worst_make_room_for_new_ones_and_no_more_than_a_part():
    told = {name: contribution(*NEW[2 * n : 2 * n + 2]) for n, name in enumerate("abcd")}
    _, vector, state = merged(told)
    judged = contribution(*NEW[8:], correct=[19, 18, 17, 16, 15, 14, 13, 12], count=20)
    found, _, _ = merged({"e": judged}, vector, state, renewed=0.25)
    assert len(found.trees) == 8
    for place, wanted in enumerate([NEW[0], NEW[2], NEW[4], NEW[6], NEW[1], NEW[3], NEW[8], NEW[9]]):
        assert_same(wanted, found.trees[place])
    # Nobody has judged the new ones: they have as much to say as the others have in the middle.
    assert found.weights[6] == found.weights[7] == pytest.approx(np.median(found.weights[:6]))


def test_what_was_said_before_counts_half():
    _, vector, state = first_round()
    once = merged({"d": scores(20, 20, 20, 20, 20, 20)}, vector, state)
    twice = merged({"d": scores(0, 0, 0, 0, 0, 20)}, once[1], once[2])[2].reshape(-1, 3)
    assert twice[0].tolist()[1:] == [20 / 2 + 20, 20 / 2 + 20]


def test_a_device_that_has_nothing_to_say_changes_nothing():
    _, vector, state = first_round()
    found, again, _ = merged({"d": scores(0, 0, 0, 0, 0, 0, count=0)}, vector, state)
    np.testing.assert_array_equal(vector, again)
    assert len(found.trees) == 6


def test_a_forest_that_is_worse_than_chance_everywhere_stays_until_there_is_another():
    _, vector, state = first_round()
    told = {name: scores(0, 0, 0, 0, 0, 0) for name in "abcd"}
    _, again, after = merged(told, vector, state)
    np.testing.assert_array_equal(vector, again)
    assert len(merged({"a": contribution(NEW[8], correct=[0] * 6)}, again, after)[0].trees) > 0


def test_trees_without_a_split_are_left_out():
    found, _, _ = merged({"a": contribution(random_tree(1, splits=0), NEW[0])})
    [one] = found.trees
    assert_same(one, NEW[0])


def test_a_forest_that_was_fitted_elsewhere_is_judged_by_all():
    vector = LAYOUT.pack(forest(1, 2)).astype(float)
    found, _, _ = merged({name: scores(20, 5) for name in "ab"}, vector)
    assert_same(found.trees[0], forest(1).trees[0])
    assert len(found.trees) == 1


told = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3),
    st.tuples(st.lists(trees(), max_size=5), st.integers(0, 30), st.integers(0, 2**32)),
    min_size=1,
    max_size=6,
)


@given(st.lists(told, min_size=1, max_size=4))
@settings(max_examples=60)
def test_whatever_devices_tell_the_result_is_a_sound_forest_and_the_same_in_any_order(rounds):
    vector, state = START, None
    for said in rounds:
        count = LAYOUT.count(vector.astype(np.float32))
        contributions = {
            name: contribution(
                *new, correct=np.random.default_rng(seed).integers(windows + 1, size=count), count=windows
            )
            for name, (new, windows, seed) in said.items()
        }
        backwards = dict(reversed(contributions.items()))
        one, other = (Forest().merge(LAYOUT, vector, each, state) for each in (contributions, backwards))
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
        vector, state = one
        assert 0 < len(LAYOUT.unpack(vector.astype(np.float32)).trees) <= LAYOUT.slots
