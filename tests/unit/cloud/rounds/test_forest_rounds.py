"""Rounds in which a forest grows: trees are judged, kept in the ledger, merged, and published whole."""

import numpy as np
import pytest
from marram.errors import MarramError
from marram.wire import cbor, reasons
from marram.wire.messages import Metrics
from marram.wire.parameters import parameters_digest
from marram.wire.trees import Room, TreesMessage, chain, encode
from marram_cloud.rounds.service import Model
from marram_cloud.strategies.fedavg import FedAvg
from marram_cloud.strategies.forest import Forest

from tests.support.forests import contribution, layout, random_tree, room_for_trees
from tests.support.service import Region

MOST = 4
MODEL = Model.of(room_for_trees())
LAYOUT = layout()


def grown(**changes):
    return Region(chain=chain(MOST), model=MODEL, strategy=Forest(trees=MOST), **changes)


def payload(number, correct=(6,)):
    return encode(contribution(*(random_tree(10 * number + n, splits=3) for n in range(2)), correct=correct))


def forest(region):
    return LAYOUT.unpack(region.ledger.latest_version().parameters)


def test_trees_of_two_devices_are_the_next_forest_published_whole():
    region = grown()
    assert region.offers()[-1].chain == "trees(4)"
    region.online("device-1", "device-2")
    for number, name in enumerate(region.names[:2]):
        region.hears(region.delta(name, payload=payload(number)), name)
        assert len(region.receipts(name)) == 1
    region.waits(2)
    assert len(forest(region).trees) == 4
    version = region.ledger.latest_version()
    offer = region.offers()[-1]
    assert offer.digest == parameters_digest(version.parameters)
    assert [one.kind for one in offer.artefacts if one.version == 1] == ["snapshot"]
    np.testing.assert_array_equal(version.exact.astype(np.float32), version.parameters)


def test_an_aggregator_killed_in_the_middle_of_a_round_makes_the_same_forest():
    """The trees are in the ledger before their receipt is sent."""
    forests = []
    for killed in (False, True):
        region = grown()
        region.online("device-1", "device-2")
        region.hears(region.delta("device-1", payload=payload(0)))
        if killed:
            region.boot()
            region.online("device-1", "device-2")
        region.hears(region.delta("device-2", payload=payload(1)), "device-2")
        region.waits(2)
        again = region.delta("device-1", payload=payload(2, correct=[5] * 4))
        region.hears(again)
        if killed:
            region.boot()
            region.online("device-1", "device-2")
            region.hears(again)
            assert len(region.receipts("device-1")) == 3
        region.hears(region.delta("device-2", payload=payload(3, correct=[7] * 4)), "device-2")
        region.waits(2)
        assert region.ledger.latest_version().version == 2
        forests.append(region.ledger.latest_version())
    np.testing.assert_array_equal(forests[0].parameters, forests[1].parameters)
    np.testing.assert_array_equal(forests[0].state, forests[1].state)


HOSTILE = {
    "no trees at all": (b"\xff\x00", reasons.MALFORMED),
    "a vector": (b"\0" * 400, reasons.MALFORMED),
    "too many trees": (encode(contribution(*[random_tree(1)] * (MOST + 1), correct=[6])), reasons.BAD_VALUES),
    "scores of another forest": (payload(0, correct=[6, 6]), reasons.BAD_VALUES),
    "a tree for another table": (
        encode(contribution(random_tree(1, Room(7, 9, 2), 7), correct=[6])), reasons.BAD_VALUES
    ),
    "more windows than it says elsewhere": (
        cbor.pack(TreesMessage((), 11, b"\0\0\0\0")), reasons.BAD_VALUES
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_contribution_is_refused_by_name_and_the_round_goes_on(case):
    spoilt, reason = HOSTILE[case]
    region = grown()
    region.hears(region.delta("device-3", payload=spoilt), "device-3")
    assert region.refusals("device-3") == [reason]
    assert region.stored == {0: []}
    region.online("device-1", "device-2")
    for number, name in enumerate(region.names[:2]):
        region.hears(region.delta(name, payload=payload(number)), name)
    region.waits(2)
    assert len(forest(region).trees) == 4


def test_scores_on_absurdly_many_windows_are_refused():
    region = grown()
    absurd = cbor.pack(TreesMessage((), 10**6, b"\0\0\0\0"))
    region.hears(region.delta(payload=absurd, before=Metrics(10**6, 1.0, 0.5)))
    assert region.refusals() == [reasons.BAD_VALUES]


def test_a_rule_for_another_kind_of_model_is_refused_at_the_start():
    with pytest.raises(MarramError, match=r"'table' is a forest; expected \{type: forest\}"):
        Region(model=MODEL, strategy=FedAvg())
    with pytest.raises(MarramError, match="forest is not for 'model'"):
        Region(strategy=Forest())
