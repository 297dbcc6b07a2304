"""A device's part in the rounds: single ways, and any order of events against a model of what must hold."""

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from marram.learning import participant as machine
from marram.learning.participant import Held, cheapest_path
from marram.wire import envelope, reasons
from marram.wire.codec.chain import Chain
from marram.wire.codec.seed import device_seed
from marram.wire.messages import Artefact, Decline, Delta, Offer
from marram.wire.parameters import parameters_digest
from marram.wire.signed import read

from tests.simulation.disk import Crash
from tests.support.aggregator import INITIAL, SIZE, TOPICS, Voice
from tests.support.device import NAME, Device
from tests.support.identities import author, author_of, certified, fleet, stranger


def opened(sealed: bytes, kind):
    return read(envelope.parse(sealed, 1 << 20), kind)


def takes_part(device, voice, round):
    """Hears the offer, fetches what is published, trains, sends."""
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(round)))
    fetch(device, voice)
    device.trained()


def fetch(device, voice):
    for topic in sorted(device.topics & voice.retained.keys()):
        device.hears(topic, voice.retained[topic])


# ---- one round


def test_a_device_that_holds_the_base_trains_and_sends_one_delta_for_it(device, voice):
    takes_part(device, voice, 0)
    assert device.trainings == [0]
    [(topic, sealed)] = device.sent
    delta = opened(sealed, Delta)
    assert topic == TOPICS.up(NAME, "delta")
    assert (delta.round, delta.version, delta.chain) == (0, 0, voice.chain)
    header = envelope.parse(sealed, 1 << 20).header
    assert (header.round, header.base) == (0, parameters_digest(voice.versions[0]))


def test_a_device_behind_fetches_the_updates_first(device, voice):
    voice.next_version()
    voice.next_version()
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(2)))
    assert device.training is None
    fetch(device, voice)
    assert device.training is not None
    np.testing.assert_array_equal(device.journal.vector(), voice.versions[2])
    assert not device.topics & voice.retained.keys()  # nothing is subscribed that is not needed


def test_parameters_that_lead_elsewhere_than_the_offer_says_are_not_held(device, voice):
    voice.next_version()
    offer = voice.offer(1, digest=b"x" * 32)
    device.hears(TOPICS.round, voice.sealed_offer(offer))
    for _ in range(5):
        fetch(device, voice)
    assert device.training is None
    np.testing.assert_array_equal(device.journal.vector(), voice.versions[0])
    [(_, sealed)] = device.sent
    assert "parameters" in opened(sealed, Decline).reason


def test_damaged_parts_are_asked_for_again(device, voice):
    voice.next_version()
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(1)))
    for topic in sorted(device.topics & voice.retained.keys()):
        device.hears(topic, voice.retained[topic][:-1] + b"?")
    assert device.training is None
    assert device.participant.refusals == {reasons.BAD_SIGNATURE: 1}
    assert "update 1 is refused" in opened(device.sent[-1][1], Decline).reason
    device.waits(machine.ASK_AGAIN)
    fetch(device, voice)
    assert device.training is not None


def test_updates_are_fetched_where_a_snapshot_is_damaged(device, voice):
    for _ in range(3):
        voice.next_version()
    voice.retained[TOPICS.parameters(3, "snapshot", 0)] = b"?"
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(1)))
    fetch(device, voice)
    assert device.topics & voice.retained.keys() == {
        TOPICS.parameters(version, "update", part) for version in (1, 2, 3) for part in range(2)
    }
    fetch(device, voice)
    assert device.training is not None
    assert device.sent == []


def test_parameters_that_stay_damaged_are_fetched_ever_more_rarely(device, voice):
    voice.next_version()
    voice.retained[TOPICS.parameters(1, "update", 0)] = b"?"
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(1)))
    pauses = []
    for _ in range(8):
        fetch(device, voice)
        pauses.append(device.participant.wake_at - device.now)
        device.waits(pauses[-1])
    assert pauses[:3] == [machine.ASK_AGAIN, 2 * machine.ASK_AGAIN, 4 * machine.ASK_AGAIN]
    assert pauses[-1] == machine.RESEND_LAST
    assert len(device.sent) == 1  # it is told once


def test_parts_that_were_taken_off_the_broker_do_not_count_as_parts(device, voice):
    voice.next_version()
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(1)))
    for topic in sorted(device.topics & voice.retained.keys()):
        device.hears(topic, b"")
    fetch(device, voice)
    assert device.training is not None


def test_parts_that_do_not_come_are_asked_for_again(device, voice):
    voice.next_version()
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(1)))
    wanted = device.topics & voice.retained.keys()
    device.unsubscribe(tuple(wanted))
    device.waits(machine.FETCH_PATIENCE)
    assert device.topics & voice.retained.keys() == wanted


def test_parameters_of_another_key_are_refused_and_the_round_is_declined(device):
    subject, (_, key) = author("aggregator", "aggregator").subject, certified("device", "device-2")
    voice = Voice(who=author_of(fleet().issue(subject, key.public_key()), key))
    voice.next_version()
    known = Voice()
    offer = known.offer(
        1, version=1, digest=parameters_digest(voice.versions[1]), artefacts=tuple(voice.artefacts)
    )
    device.hears(TOPICS.round, known.sealed_offer(offer))
    fetch(device, voice)
    assert device.training is None
    assert device.participant.refusals == {reasons.UNKNOWN_DEVICE: 1}
    assert "refused" in opened(device.sent[-1][1], Decline).reason
    device.waits(machine.ASK_AGAIN)
    assert device.topics & voice.retained.keys()  # it tries again


def test_no_permission_is_told_once_with_the_reason_and_asked_again_later(device, voice):
    device.allowed = (False, "on battery")
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0)))
    device.waits(machine.ASK_AGAIN)
    [(topic, sealed)] = device.sent
    assert topic == TOPICS.up(NAME, "decline")
    assert opened(sealed, Decline) == Decline(0, "on battery")
    assert "on battery" in device.participant.phase
    device.allowed = (True, "")
    device.waits(machine.ASK_AGAIN)
    assert device.trainings == [0]


def test_a_decline_is_said_again_on_the_next_connection(device, voice):
    device.allowed = (False, "on battery")
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0)))
    device.sent.clear()
    device.does(machine.Disconnected())
    device.connects()
    assert [opened(sealed, Decline) for _, sealed in device.sent] == [Decline(0, "on battery")]


def test_a_decline_that_could_not_be_sent_is_sent_on_the_next_connection(device, voice):
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0)))
    device.up = False
    device.does(machine.Disconnected())
    device.stop()
    for _ in range(machine.MAX_ATTEMPTS):
        device.does(machine.TrainingFailed(0, "out of memory"))
        device.waits(machine.ASK_AGAIN)
    device.connects()
    assert [opened(sealed, Decline).round for _, sealed in device.sent] == [0]


def test_a_decline_is_said_again_to_an_aggregator_that_was_restarted(device, voice):
    device.allowed = (False, "on battery")
    offer = voice.sealed_offer(voice.offer(0))
    device.hears(TOPICS.round, offer)
    device.hears(TOPICS.round, offer)  # the broker's word, not the aggregator's
    assert len(device.sent) == 1
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0)))
    assert [opened(sealed, Decline).reason for _, sealed in device.sent] == ["on battery"] * 2


def test_nothing_is_declined_once_the_training_runs(device, voice):
    device.allowed = (False, "on battery")
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0)))
    device.allowed = (True, "")
    device.waits(machine.ASK_AGAIN)
    device.sent.clear()
    device.does(machine.Disconnected())
    device.connects()
    assert device.trainings == [0]
    assert device.sent == []


def test_an_offer_for_another_model_is_declined(device, voice):
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0, family="another")))
    assert device.training is None
    assert "another model" in opened(device.sent[0][1], Decline).reason


def test_a_failed_training_is_tried_again_but_not_for_ever(device, voice):
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0)))
    for _ in range(10):
        if device.training:
            device.stop()
            device.does(machine.TrainingFailed(0, "out of memory"))
        device.waits(machine.ASK_AGAIN)
    assert device.trainings == [0] * machine.MAX_ATTEMPTS
    assert "out of memory" in opened(device.sent[0][1], Decline).reason


def test_a_newer_offer_ends_the_training_of_the_older(device, voice):
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0)))
    old = device.training
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(1)))
    assert device.trainings == [0, 1]
    device.training = old
    device.trained()  # its end came in the same moment
    assert device.deltas == []


def test_the_end_of_the_offers_is_understood(device, voice):
    takes_part(device, voice, 0)
    device.hears(TOPICS.round, b"")
    assert device.participant.phase == "no round is offered"
    assert device.participant.refusals == {}


# ---- messages that are refused


@pytest.mark.parametrize("kind", ["cut", "flipped", "other topic", "device", "stranger", "old", "garbage"])
def test_a_message_that_is_not_the_aggregators_changes_nothing_and_is_counted(device, voice, kind):
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0, family="another")))
    good, topic = voice.sealed_offer(voice.offer(5)), TOPICS.round
    certificate, key = certified("device", "device-2")
    foreign = stranger().issue(author("aggregator", "aggregator").subject, key.public_key())
    bad = {
        "cut": good[:-1],
        "flipped": good[:100] + bytes([good[100] ^ 1]) + good[101:],
        "other topic": voice.receipt(NAME, 5, b"d" * 32)[1],
        "device": Voice(who=author_of(certificate, key)).sealed_offer(voice.offer(5)),
        "stranger": Voice(who=author_of(foreign, key)).sealed_offer(voice.offer(5)),
        "old": None,
        "garbage": b"hello",
    }[kind]
    if kind == "old":
        bad = voice.sealed_offer(voice.offer(4))
        device.hears(TOPICS.round, voice.sealed_offer(voice.offer(5, family="another")))
    device.hears(topic, bad)
    assert device.trainings == []
    assert sum(device.participant.refusals.values()) == 1


# ---- an aggregator that begins anew


def begun_anew(voice):
    """The region's aggregator with an empty ledger, later than all that ``voice`` said."""
    return Voice(run=b"n" * 16, counter=voice.counter)


def test_an_aggregator_that_lost_its_ledger_is_followed_from_its_round_zero(device, voice):
    for round in range(3):
        takes_part(device, voice, round)
        voice.next_version()
    other = begun_anew(voice)
    takes_part(device, other, 0)
    assert device.trainings == [0, 1, 2, 0]
    delta = opened(device.sent[-1][1], Delta)
    assert (delta.run, delta.round) == (other.run, 0)
    np.testing.assert_array_equal(device.journal.vector(), INITIAL)


def test_what_is_owed_to_a_lost_ledger_is_dropped(device, voice):
    takes_part(device, voice, 0)
    takes_part(device, voice, 1)
    other = begun_anew(voice)
    device.hears(TOPICS.round, other.sealed_offer(other.offer(0)))
    assert device.participant.outbox == 0
    assert device.journal.memory().outbox == ()
    assert device.journal.residual() is None
    device.sent.clear()
    device.waits(10 * machine.RESEND_FIRST)
    assert device.deltas == []


def test_an_aggregator_that_begins_anew_ends_a_training_for_the_lost_ledger(device, voice):
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0)))
    old = device.training
    other = begun_anew(voice)
    device.hears(TOPICS.round, other.sealed_offer(other.offer(0)))
    new, device.training = device.training, old
    device.trained()  # its end came in the same moment
    assert device.deltas == []
    device.training = new
    device.trained()
    assert [opened(sealed, Delta).run for _, sealed in device.sent] == [other.run]


@pytest.mark.parametrize("restarted", [False, True])
def test_an_offer_of_a_lost_ledger_said_again_brings_nothing_back(device, voice, restarted):
    old = voice.sealed_offer(voice.offer(7))
    other = begun_anew(voice)
    takes_part(device, other, 0)
    if restarted:
        device.boot()
        device.connects()
    device.hears(TOPICS.round, old)
    assert device.participant.refusals == {reasons.REPLAYED: 1}
    assert device.journal.memory().run == other.run
    assert device.participant.outbox == 1


@pytest.mark.parametrize("restarted", [False, True])
def test_a_ledger_brought_back_from_a_copy_is_followed_from_where_it_was(device, voice, restarted):
    old = voice.sealed_offer(voice.offer(2))
    for round in range(4):
        takes_part(device, voice, round)
    if restarted:
        device.boot()
        device.connects()
    device.hears(TOPICS.round, old)
    assert device.trainings == [0, 1, 2, 3]  # said again by somebody
    takes_part(device, voice, 2)  # said by the aggregator, later than round 3
    assert device.trainings == [0, 1, 2, 3, 2]


# ---- the outbox


def test_a_delta_is_sent_again_until_its_receipt(device, voice):
    takes_part(device, voice, 0)
    device.waits(machine.RESEND_FIRST)
    device.waits(2 * machine.RESEND_FIRST)
    [digest] = set(device.deltas)
    assert len(device.deltas) == 3
    device.hears(*voice.receipt(NAME, 0, digest))
    assert device.participant.outbox == 0
    assert device.participant.phase == "round 0 done"
    assert device.participant.wake_at is None
    assert device.journal.memory().outbox == ()


def test_the_pauses_between_two_sendings_grow_up_to_a_bound(device, voice):
    takes_part(device, voice, 0)
    pauses = []
    for _ in range(10):
        pauses.append(device.participant.wake_at - device.now)
        device.waits(pauses[-1])
    assert pauses == sorted(pauses)
    assert pauses[0] == machine.RESEND_FIRST
    assert pauses[-1] == machine.RESEND_LAST


def test_a_receipt_for_another_device_or_an_unknown_delta_changes_nothing(device, voice):
    takes_part(device, voice, 0)
    _, sealed = voice.receipt("device-2", 0, device.deltas[0])
    device.hears(TOPICS.down(NAME, "receipt"), sealed)
    device.hears(*voice.receipt(NAME, 0, b"u" * 32))
    assert device.participant.outbox == 1


def test_what_a_late_delta_said_goes_into_the_next_one(device, voice):
    takes_part(device, voice, 0)
    learnt = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    device.hears(*voice.refusal(NAME, device.deltas[0], reasons.STALE_ROUND))
    np.testing.assert_allclose(device.journal.residual(), learnt, atol=1e-6)
    assert device.participant.outbox == 0


def test_a_delta_refused_for_its_content_is_gone_and_the_reason_is_kept(device, voice):
    takes_part(device, voice, 0)
    before = device.journal.residual()
    device.hears(*voice.refusal(NAME, device.deltas[0], reasons.BAD_VALUES))
    np.testing.assert_array_equal(device.journal.residual(), before)
    assert device.participant.last_refusal == "bad_values: because"


def test_a_device_that_was_away_keeps_its_deltas_and_sends_a_few_at_a_time(device, voice):
    for round in range(6):
        takes_part(device, voice, round)
        if round == 0:
            device.up = False
            device.does(machine.Disconnected())
    assert device.participant.outbox == 6
    device.sent.clear()
    device.connects()
    assert len(device.deltas) == machine.IN_FLIGHT
    answered = 0
    while device.participant.outbox:
        device.hears(*voice.receipt(NAME, 0, device.deltas[answered]))
        answered += 1
    assert answered == len(device.deltas) == 6


# ---- ways to the parameters


def artefact(version, kind, size):
    return Artefact(version, kind, b"e" * 32, size, 1)


def test_the_cheapest_way_to_the_base_is_taken(voice):
    updates = [artefact(version, "update", 10) for version in range(1, 7)]
    offer = voice.offer(6, version=6, artefacts=(*updates, artefact(3, "snapshot", 25)))
    assert cheapest_path(offer, Held(4, b"d" * 32)) == tuple(updates[4:])
    assert cheapest_path(offer, Held(0, b"d" * 32)) == (artefact(3, "snapshot", 25), *updates[3:])
    assert cheapest_path(offer, None) == (artefact(3, "snapshot", 25), *updates[3:])
    assert cheapest_path(voice.offer(6, version=6, artefacts=tuple(updates[1:])), None) is None


# ---- any order of events


class AnyOrder(RuleBasedStateMachine):
    """Offers, parts, permissions, trainings, receipts, refusals, power cuts: in any order."""

    def __init__(self):
        super().__init__()
        self.voice = Voice()
        self.device = Device()
        self.fuse = None
        self.device.disk.power = self.power_fails
        self.round = 0
        self.offers = []  # sealed, in the order of their signing
        self.voices = {b"": self.voice, self.voice.run: self.voice}
        self.ever = set()  # digests of all deltas that were on the disk
        self.rounds_of = {}  # digest of every delta of this run that ever reached the disk -> its round
        self.payloads = {}
        self.settled = {}  # digest -> whether what it said was given back
        self.learnt = {}  # round -> vector
        self.counters = []

    def power_fails(self):
        if self.fuse is None:
            return False
        self.fuse -= 1
        if self.fuse < 0:
            self.fuse = None
            return True
        return False

    def guarded(self, call, answer=None):
        """A call that may be cut by a power failure."""
        try:
            call()
        except Crash:
            self.device.up = False
            self.device.boot()
        self.look()
        if answer is not None and answer[0] not in self.device.journal.memory().outbox:
            self.settled[answer[0]] = answer[1]

    def look(self):
        for digest, round, payload, sealed in self.device.disk.execute(
            "SELECT digest, round, payload, sealed FROM outbox ORDER BY entry"
        ):
            if digest not in self.rounds_of:
                self.rounds_of[digest], self.payloads[digest] = round, payload
                self.counters.append(envelope.parse(sealed, 1 << 20).header.counter)
                self.ever.add(digest)

    @rule()
    def connect(self):
        self.guarded(self.device.connects)

    @rule()
    def disconnect(self):
        self.device.up = False
        self.guarded(lambda: self.device.does(machine.Disconnected()))

    @rule(new_round=st.booleans(), new_version=st.booleans())
    def offer(self, new_round, new_version):
        if new_round:
            self.round += 1
            if new_version:
                self.voice.next_version()
        self.offers.append(self.voice.sealed_offer(self.voice.offer(self.round)))
        self.hear_offer(-1)

    @precondition(lambda self: self.offers)
    @rule(again=st.integers(1, 5))
    def old_offer(self, again):
        """Late, or said again by somebody else."""
        self.hear_offer(-min(again, len(self.offers)))

    @precondition(lambda self: self.offers)
    @rule()
    def lost_ledger(self):
        """The aggregator begins anew."""
        run = bytes([self.voice.run[0] + 1]) * 16
        self.voice = self.voices[run] = Voice(run=run, counter=self.voice.counter)
        self.round = 0
        self.offers.append(self.voice.sealed_offer(self.voice.offer(0)))
        self.hear_offer(-1)

    def hear_offer(self, index):
        before = self.device.journal.memory().run
        self.guarded(lambda: self.device.hears(TOPICS.round, self.offers[index]))
        after = self.device.journal.memory().run
        if after != before:
            assert after == opened(self.offers[index], Offer).run > before, "an old run was brought back"
            # What was owed to the lost ledger is nobody's any more.
            for facts in (self.rounds_of, self.payloads, self.settled, self.learnt):
                facts.clear()

    @rule(allowed=st.booleans())
    def govern(self, allowed):
        self.device.allowed = (allowed, "" if allowed else "no")

    @rule(data=st.data())
    def part(self, data):
        wanted = sorted(self.device.topics & self.voice.retained.keys())
        if wanted:
            topic = data.draw(st.sampled_from(wanted))
            self.guarded(lambda: self.device.hears(topic, self.voice.retained[topic]))

    @rule()
    def all_parts(self):
        self.guarded(lambda: fetch(self.device, self.voice))

    @precondition(lambda self: self.device.training is not None)
    @rule()
    def train(self):
        offer = self.device.training
        assert offer.digest == parameters_digest(self.device.journal.vector())
        assert offer.round not in self.rounds_of.values()
        delta = np.random.default_rng([offer.round, len(self.rounds_of)]).normal(size=SIZE).astype(np.float32)
        known = set(self.rounds_of)
        self.guarded(lambda: self.device.trained(delta))
        if set(self.rounds_of) - known:
            self.learnt[offer.round] = delta

    @precondition(lambda self: self.device.training is not None)
    @rule()
    def fail(self):
        round = self.device.training.round
        self.device.stop()
        self.guarded(lambda: self.device.does(machine.TrainingFailed(round, "no")))

    @precondition(lambda self: self.device.sent)
    @rule(data=st.data(), answer=st.sampled_from(["receipt", reasons.STALE_ROUND, reasons.BAD_VALUES]))
    def answer(self, data, answer):
        if not self.device.deltas:
            return
        digest = data.draw(st.sampled_from(sorted(set(self.device.deltas))))
        assert digest in self.ever, "a delta was sent before it was on the disk"
        if digest not in self.rounds_of:
            return  # of a ledger that was lost
        if digest in self.settled:
            answer = "receipt"  # whatever is said twice changes nothing
        message = (
            self.voice.receipt(NAME, self.rounds_of[digest], digest)
            if answer == "receipt"
            else self.voice.refusal(NAME, digest, answer)
        )
        fresh = digest not in self.settled
        given_back = (digest, answer == reasons.STALE_ROUND) if fresh else None
        self.guarded(lambda: self.device.hears(*message), given_back)

    @rule(seconds=st.sampled_from([1.0, 31.0, 700.0]))
    def wait(self, seconds):
        self.guarded(lambda: self.device.waits(seconds))

    @rule(fuse=st.integers(0, 3))
    def power_cut(self, fuse):
        """The power fails before or after one of the next commits."""
        self.fuse = fuse

    @invariant()
    def no_entry_of_the_outbox_is_lost(self):
        memory = self.device.journal.memory()
        assert set(memory.outbox) == set(self.rounds_of) - set(self.settled)
        assert self.device.participant.outbox == len(memory.outbox)

    @invariant()
    def no_round_has_two_deltas(self):
        assert len(set(self.rounds_of.values())) == len(self.rounds_of)

    @invariant()
    def counters_rise(self):
        assert self.counters == sorted(set(self.counters))

    @invariant()
    def the_journal_names_what_it_holds(self):
        memory = self.device.journal.memory()
        assert memory.held == self.device.participant.held
        assert memory.held.digest == parameters_digest(self.voices[memory.run].versions[memory.held.version])

    @invariant()
    def what_was_learnt_is_told_or_still_owed(self):
        chain = Chain.parse(self.voice.chain)
        owed = self.device.journal.residual()
        said = np.zeros(SIZE) if owed is None else owed.astype(np.float64)
        for digest, payload in self.payloads.items():
            if not self.settled.get(digest, False):
                said = said + chain.decode(payload, SIZE, seed_of(self.rounds_of[digest]))
        learnt = sum(self.learnt.values(), np.zeros(SIZE))
        np.testing.assert_allclose(said, learnt, atol=1e-4)


def seed_of(round):
    return device_seed(round, NAME)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
