"""Trees on their way: what was sent arrives, and nothing that is no tree does."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.errors import WireError
from marram.wire import cbor, reasons
from marram.wire.codec.chain import Chain
from marram.wire.trees import MOST_TREES, TreesMessage, chain, check, decode, encode, most_trees

from tests.support.forests import ROOM, assert_same, contribution, random_tree, trees

MOST, BASE = 4, 3
TREE = random_tree(1, splits=5)
SOUND = contribution(TREE, correct=(0, 4, 10))


def message():
    return cbor.unpack(encode(SOUND), TreesMessage)


def refused(changed):
    payload = changed if isinstance(changed, bytes) else cbor.pack(changed)
    with pytest.raises(WireError) as caught:
        decode(payload, ROOM, MOST, BASE)
    return caught.value


@given(st.lists(trees(), max_size=MOST), st.lists(st.integers(0, 10), min_size=BASE, max_size=BASE))
def test_what_was_sent_arrives_with_leaves_in_parts_of_255(sent, correct):
    found = decode(encode(contribution(*sent, correct=correct)), ROOM, MOST, BASE)
    assert found.correct.tolist() == correct
    assert found.count == 10
    for one, other in zip(sent, found.trees, strict=True):
        check(other, ROOM)
        assert_same(one, other, leaves=0.01)


@given(trees())
def test_what_arrived_goes_on_unchanged(tree):
    """An aggregator keeps what it read: it may not change when it is read again."""
    once = decode(encode(contribution(tree, correct=[0] * BASE)), ROOM, MOST, BASE)
    again = decode(encode(once), ROOM, MOST, BASE)
    assert_same(once.trees[0], again.trees[0], leaves=1e-2)


def little(values, kind):
    return np.array(values, kind).tobytes()


def spoilt(**fields):
    sound = message()
    return msgspec.structs.replace(sound, trees=(msgspec.structs.replace(sound.trees[0], **fields),))


children = TREE.children.reshape(-1).tolist()
HOSTILE = {
    "too many": (lambda: msgspec.structs.replace(message(), trees=message().trees * 5), "at most 4"),
    "scores of other trees": (lambda: msgspec.structs.replace(message(), correct=b"\0" * 8), "of 3 trees"),
    "more right than there are": (
        lambda: msgspec.structs.replace(message(), correct=little([0, 0, 11], "<u4")), "11 of 10"
    ),
    "index out of range": (lambda: spoilt(features=little([0, 1, 2, 3, 0], "<u2")), "feature 3"),
    "NaN": (lambda: spoilt(thresholds=little([0, 1, np.nan, 3, 0], "<f4")), "NaN"),
    "infinite": (lambda: spoilt(thresholds=little([0, 1, np.inf, 3, 0], "<f4")), "infinite"),
    "no such child": (lambda: spoilt(children=little([*children[:-1], 11], "<u2")), "no such node"),
    "a child of two": (lambda: spoilt(children=little([children[0], *children[:-1]], "<u2")), "twice"),
    "a ring": (lambda: spoilt(children=little([2, 6, 1, 7, 4, 8, 3, 9, 5, 10], "<u2")), "comes after"),
    "cut short": (lambda: spoilt(leaves=b"\1" * 11), "lengths"),
    "half a number": (lambda: spoilt(features=b"\0" * 9), "lengths"),
    "a leaf that says nothing": (lambda: spoilt(leaves=b"\0\0" + b"\1" * 10), "says nothing"),
    "too many splits": (
        lambda: encode(contribution(random_tree(1, replace(ROOM, splits=8), 8), correct=[0] * BASE)),
        "8 splits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_contribution_is_refused_and_says_why(case):
    make, why = HOSTILE[case]
    error = refused(make())
    assert error.reason == reasons.BAD_VALUES
    assert why in str(error)


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_by_name(data):
    assert refused(data).reason in (reasons.MALFORMED, reasons.BAD_VALUES)


@given(st.data())
def test_a_damaged_contribution_is_refused_or_is_a_sound_one(data):
    sound = bytearray(encode(SOUND))
    sound[data.draw(st.integers(0, len(sound) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = decode(bytes(sound), ROOM, MOST, BASE)
    except WireError:
        return
    for tree in found.trees:
        check(tree, ROOM)


@pytest.mark.parametrize("most", [1, 8, MOST_TREES])
def test_the_chain_says_how_many(most):
    assert most_trees(chain(most)) == most


@pytest.mark.parametrize(
    "spec", ["", "trees", "trees()", "trees(0)", "trees(-1)", "trees(8)|float32", "float32"]
)
def test_another_chain_is_none_of_trees(spec):
    assert most_trees(spec) == 0


def test_a_device_that_knows_no_trees_refuses_the_chain():
    with pytest.raises(WireError) as caught:
        Chain.parse(chain(8))
    assert caught.value.reason == reasons.WRONG_CHAIN
