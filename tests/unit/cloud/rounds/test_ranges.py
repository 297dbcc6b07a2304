"""The ranges of activations on the aggregator: asked for, taken with a delta, refused by name, forgotten."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from marram.wire import cbor, reasons
from marram.wire.messages import RangesAsked
from marram.wire.ranges import encode
from marram_cloud.aggregator import open_ledger
from marram_cloud.ledger.ledger import Ledger

from tests.support.service import CALIBRATE, Region
from tests.unit.cloud.test_config import settings_for

PROGRAM, LIMIT = CALIBRATE[0], 1000.0


@pytest.fixture
def region():
    return Region(ranges_limit=LIMIT)


def ranges(low=(-1.0, 0.0), high=(2.0, 4.0)):
    return encode(np.array(low), np.array(high), 1e6)


def test_the_offer_asks_for_them_and_the_ledger_keeps_what_a_device_tells(region):
    assert region.offers()[-1].ranges == RangesAsked(PROGRAM, LIMIT)
    region.hears(region.delta(ranges=ranges()))
    assert len(region.receipts()) == 1
    [(device, (low, high))] = region.ledger.ranges([0], PROGRAM).items()
    assert device == "device-1"
    np.testing.assert_allclose(low, [-1.0, 0.0])
    np.testing.assert_allclose(high, [2.0, 4.0])


def test_a_delta_without_them_counts_all_the_same(region):
    region.hears(region.delta())
    assert region.stored == {0: ["device-1"]}
    assert region.ledger.ranges([0], PROGRAM) == {}


def test_an_aggregator_that_does_not_ask_says_what_it_always_said():
    """An older device refuses an offer with a field that it does not know."""
    region = Region()
    assert region.offers()[-1].ranges is None
    assert "ranges" not in cbor.decode(cbor.pack(region.offers()[-1]))


HOSTILE = {
    "too short": b"\x80" * 3,
    "too long": b"\x80" * 5,
    "empty": b"",
    "absurd": b"\xff" * 4,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_ranges_are_refused_by_name_and_nothing_of_them_is_kept(region, case):
    region.hears(region.delta(ranges=HOSTILE[case]))
    assert region.refusals() == [reasons.BAD_VALUES]
    assert region.stored == {0: []}
    assert region.ledger.ranges([0], PROGRAM) == {}
    region.hears(region.delta(ranges=ranges()))
    assert region.stored == {0: ["device-1"]}


def test_ranges_that_nobody_asked_for_are_refused():
    region = Region()
    region.hears(region.delta(ranges=ranges()))
    assert region.refusals() == [reasons.BAD_VALUES]


def test_a_delta_that_comes_again_tells_its_ranges_once(region):
    sealed = region.delta(ranges=ranges())
    for _ in range(3):
        region.hears(sealed)
    assert len(region.receipts()) == 3
    assert len(region.ledger.ranges([0], PROGRAM)) == 1


def test_of_several_versions_a_devices_newest_word_counts(region):
    for high in (2.0, 8.0):
        for name in region.names:
            region.hears(region.delta(name, ranges=ranges(high=(high, high))), name)
        region.waits(1.0)
    found = region.ledger.ranges([0, 1], PROGRAM)
    assert {pair[1][0] for pair in found.values()} == {8.0}
    assert {pair[1][0] for pair in region.ledger.ranges([0], PROGRAM).values()} == {2.0}


def test_with_their_version_ranges_are_forgotten(region):
    region.hears(region.delta(ranges=ranges()))
    with region.ledger.transaction():
        region.ledger.forget_versions(1)
    assert region.ledger.ranges([0], PROGRAM) == {}


def test_an_aggregator_that_starts_again_asks_in_the_open_round_as_before(region):
    region.ranges_limit = 5.0
    region.boot()
    assert region.offers()[-1].ranges == RangesAsked(PROGRAM, LIMIT)
    region.hears(region.delta(ranges=ranges(high=(900.0, 1.0))))
    assert region.stored == {0: ["device-1"]}


def test_a_ledger_of_an_older_marram_learns_to_keep_them(tmp_path):
    config = settings_for(tmp_path)
    open_ledger(config).database.close()
    [path] = config.state.glob("ledger.db")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("ALTER TABLE rounds DROP COLUMN ranges")
        database.execute("DROP TABLE ranges")
        database.execute(
            "INSERT INTO rounds (number, version, chain, seed, steps, opened) VALUES "
            '(0, 0, \'float32\', 1, \'{"epochs":1,"batch":16,"learning_rate":0.1}\', 1.0)'
        )
        database.execute("PRAGMA user_version = 1")
    ledger: Ledger = open_ledger(config)
    assert ledger.current_round().ranges is None
    assert ledger.ranges([0], PROGRAM) == {}
    assert ledger.database.execute("PRAGMA user_version").fetchone() == (2,)
