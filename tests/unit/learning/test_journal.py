"""The journal: every change is there as a whole or not at all, and what another model left is forgotten."""

import numpy as np
import pytest
from marram.errors import StorageError
from marram.learning import journal as journals
from marram.learning.journal import Journal
from marram.learning.participant import Apply, Begin, CommitDelta
from marram.wire.codec.chain import Chain
from marram.wire.messages import Parameters
from marram.wire.parameters import parameters_digest

from tests.simulation.disk import Crash, new_disk
from tests.support.aggregator import FAMILY, INITIAL, SIZE, Voice

CHAIN = "feedback|quantise(8,8)"


@pytest.fixture
def disk():
    return new_disk(journals.SCHEMA)


def committed(round=0, digest=b"d" * 32, counter=7):
    vector = np.random.default_rng(round).normal(size=SIZE).astype(np.float32)
    encoded = Chain.parse(CHAIN).encode(vector, 3)
    residual = encoded.residual.astype("<f4").tobytes()
    return CommitDelta(round, 5, digest, b"sealed", CHAIN, 3, encoded.payload, residual, counter), vector


def way_to_version_one(voice):
    voice.next_version()
    change = np.random.default_rng(1).normal(size=SIZE).astype(np.float32)
    payload = Chain.parse("quantise(8,8)").encode(change, 1).payload
    digest = parameters_digest(voice.versions[1])
    return Apply(voice.offer(1), (Parameters(1, "update", "quantise(8,8)", 1, payload, digest),))


def state(disk):
    journal = Journal(disk, FAMILY, INITIAL)
    residual = journal.residual()
    return journal.memory(), journal.vector().tobytes(), None if residual is None else residual.tobytes()


def changes():
    def commit(journal):
        journal.commit_delta(committed(round=2, digest=b"e" * 32, counter=9)[0])

    def settle(journal):
        journal.settle(b"d" * 32, give_back=False)

    def give_back(journal):
        journal.settle(b"d" * 32, give_back=True)

    def apply(journal):
        assert journal.apply(way_to_version_one(Voice())).error == ""

    def begin(journal):
        assert journal.begin(Begin(b"r" * 16, 8)).held.version == 0

    return [commit, settle, give_back, apply, begin]


@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_power_cut_leaves_the_state_before_or_after_a_change_and_nothing_between(disk, change, when):
    journal = Journal(disk, FAMILY, INITIAL)
    journal.commit_delta(committed()[0])
    before = state(disk)
    asked = iter([when == "before", True])
    disk.power = lambda: next(asked)
    with pytest.raises(Crash):
        change(journal)
    disk.power = lambda: False
    assert disk.commits == 3  # the family, the first delta, and one for the change
    assert (state(disk) == before) is (when == "before")


def test_a_new_journal_holds_the_bundles_own_parameters(disk):
    memory = Journal(disk, FAMILY, INITIAL).memory()
    assert (memory.held.version, memory.held.digest) == (0, parameters_digest(INITIAL))
    assert (memory.done_round, memory.outbox) == (-1, ())


def test_a_committed_delta_brings_its_residual_round_and_counter(disk):
    journal = Journal(disk, FAMILY, INITIAL)
    action, _ = committed(round=4, counter=11)
    journal.commit_delta(action)
    memory = journal.memory()
    assert (memory.outbox, memory.done_round, memory.counter) == ((action.digest,), 4, 11)
    assert journal.sealed(action.digest) == b"sealed"
    assert journal.residual().tobytes() == action.residual


def test_a_delta_given_back_is_owed_again_in_full(disk):
    journal = Journal(disk, FAMILY, INITIAL)
    action, vector = committed()
    journal.commit_delta(action)
    journal.settle(action.digest, give_back=True)
    np.testing.assert_allclose(journal.residual(), vector, atol=1e-6)
    assert journal.sealed(action.digest) is None


def test_a_delta_settled_twice_is_given_back_once(disk):
    journal = Journal(disk, FAMILY, INITIAL)
    action, vector = committed()
    journal.commit_delta(action)
    for _ in range(2):
        journal.settle(action.digest, give_back=True)
    np.testing.assert_allclose(journal.residual(), vector, atol=1e-6)


def test_an_update_on_top_of_another_version_changes_nothing(disk):
    journal = Journal(disk, FAMILY, INITIAL)
    voice = Voice()
    voice.next_version()
    apply = way_to_version_one(voice)  # made against version 1, so it is an update to version 2 in truth
    wrong = Apply(apply.offer, (Parameters(2, "update", "quantise(8,8)", 1, b"", b"d" * 32),))
    assert "on top of 0" in journal.apply(wrong).error
    np.testing.assert_array_equal(journal.vector(), INITIAL)


@pytest.mark.parametrize("payload", [b"", b"x" * 7, b"\xff" * 400])
def test_parameters_that_cannot_be_decoded_change_nothing(disk, payload):
    journal = Journal(disk, FAMILY, INITIAL)
    offer = Voice().offer(0)
    applied = journal.apply(Apply(offer, (Parameters(0, "snapshot", "float32", 0, payload, offer.digest),)))
    assert applied.error
    np.testing.assert_array_equal(journal.vector(), INITIAL)


def test_another_model_begins_anew_but_the_counter_goes_on(disk):
    journal = Journal(disk, FAMILY, INITIAL)
    journal.commit_delta(committed(round=8, counter=1234)[0])
    other = Journal(disk, "another", np.zeros(5, np.float32))
    memory = other.memory()
    assert (memory.done_round, memory.outbox, memory.counter) == (-1, (), 1234)
    assert other.residual() is None
    np.testing.assert_array_equal(other.vector(), np.zeros(5, np.float32))


def test_a_new_run_begins_with_the_bundles_parameters_and_the_counters_go_on(disk):
    journal = Journal(disk, FAMILY, INITIAL)
    assert journal.apply(way_to_version_one(Voice())).error == ""
    journal.commit_delta(committed(round=8, counter=1234)[0])
    applied = journal.begin(Begin(b"r" * 16, 99))
    memory = Journal(disk, FAMILY, INITIAL).memory()
    assert applied.held == memory.held
    assert (memory.held.version, memory.held.digest) == (0, parameters_digest(INITIAL))
    assert (memory.run, memory.offered, memory.done_round, memory.outbox) == (b"r" * 16, 99, -1, ())
    assert memory.counter == 1234
    assert journal.residual() is None


def test_a_full_disk_is_an_error_with_a_name_and_changes_nothing(disk):
    journal = Journal(disk, FAMILY, INITIAL)
    before = state(disk)
    pages = disk.execute("PRAGMA page_count").fetchone()[0]
    disk.execute(f"PRAGMA max_page_count={pages}")
    action = committed()[0]
    large = CommitDelta(
        0, 5, action.digest, b"s" * 100_000, CHAIN, 3, action.payload, action.residual, action.counter
    )
    with pytest.raises(StorageError, match="full"):
        journal.commit_delta(large)
    assert state(disk) == before
