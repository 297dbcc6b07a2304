"""A fleet that learns a forest, by the real grower, bytes and rule; each device sees one kind of rows."""

from itertools import islice

import numpy as np
import pytest
from marram_cloud.strategies.forest import Forest

from benchmarks.forests import alone, room, rounds
from examples.trees.tables import cancer

WANTED = 0.91


@pytest.mark.parametrize("seed", [0, 1])
def test_a_fleet_of_clinics_learns_what_none_of_them_could(seed):
    table = cancer(seed)
    bundle = room(table, trees=64, splits=15)
    *_, last = islice(rounds(bundle, table, Forest(trees=4), seed), 5)
    single = np.mean([alone(bundle, table, place, seed) for place in range(len(table.devices))])
    assert last.accuracy >= WANTED
    assert last.accuracy > single + 0.1


def test_the_same_rounds_give_the_same_forest():
    table = cancer()
    bundle = room(table, trees=64, splits=15)
    one, other = (list(islice(rounds(bundle, table, Forest(trees=4), 0), 2))[-1] for _ in range(2))
    np.testing.assert_array_equal(one.forest, other.forest)
