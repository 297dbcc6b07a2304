"""The aggregator's service: what is acknowledged, refused by name, summed; also when the disk fails."""

import dataclasses
import random

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marram.errors import MarramError
from marram.wire import cbor, chunks, envelope, reasons
from marram.wire.messages import Decline, Delta, Metrics, Receipt
from marram.wire.parameters import parameters_digest
from marram_cloud.rounds.coordinator import Rules
from marram_cloud.rounds.intake import Reassembly
from marram_cloud.rounds.report import as_objects, as_text
from marram_cloud.rounds.service import Model, Service

from tests.simulation.disk import Crash
from tests.support.aggregator import INITIAL, SIZE, TOPICS
from tests.support.identities import author, author_of, certified, stranger
from tests.support.service import MEASURED, Region


@pytest.fixture
def region():
    return Region()


def vector(number):
    return np.random.default_rng(number).normal(size=SIZE).astype(np.float32)


# ---- the good way


def test_every_new_ledger_has_a_run_of_its_own(region):
    assert region.offers()[0].run != Region().offers()[0].run


def test_a_new_aggregator_offers_round_zero_of_the_bundles_parameters(region):
    [offer] = region.offers()
    assert (offer.round, offer.version, offer.digest) == (0, 0, parameters_digest(INITIAL))
    assert [(one.kind, one.version) for one in offer.artefacts] == [("snapshot", 0)]


def test_a_delta_gets_a_receipt_that_names_it(region):
    sealed = region.delta()
    region.hears(sealed)
    assert region.receipts() == [envelope.digest(sealed)]
    assert region.stored == {0: ["device-1"]}


def test_the_parameters_of_the_next_round_are_the_mean_weighted_by_windows(region):
    region.hears(region.delta("device-1", vector(1), samples=1), "device-1")
    region.hears(region.delta("device-2", vector(2), samples=3), "device-2")
    region.waits(1.0)
    latest = region.ledger.latest_version()
    expected = INITIAL + (vector(1).astype(float) + 3 * vector(2).astype(float)) / 4
    np.testing.assert_allclose(latest.exact, expected, rtol=1e-12)
    offer = region.offers()[-1]
    assert (offer.round, offer.version, offer.digest) == (1, 1, latest.digest)
    [first, _] = region.ledger.rounds()
    assert (first.counted, first.weight) == (2, 4)


def test_a_round_waits_for_a_device_that_is_online_and_not_for_one_that_is_not(region):
    region.online("device-1", "device-2", "device-3")
    for name in ("device-1", "device-2"):
        region.hears(region.delta(name), name)
    region.waits(5.0)
    assert region.ledger.current_round().number == 0
    region.service.take([(TOPICS.state("device-3"), b'{"online":false}')], region.now)
    region.waits(1.0)
    assert region.ledger.current_round().number == 0  # most come back at once
    region.waits(region.rules.grace)
    assert region.ledger.current_round().number == 1


def test_a_device_that_declines_is_not_waited_for(region):
    region.online("device-1", "device-2", "device-3")
    for name in ("device-1", "device-2"):
        region.hears(region.delta(name), name)
    region.waits(5.0)
    topic = TOPICS.up("device-3", "decline")
    sealed = author("device", "device-3").seal(Decline(0, "on battery"), topic, 1, round=0)
    region.hears(sealed, "device-3", "decline")
    assert region.ledger.current_round().number == 1


def test_a_round_closes_at_its_deadline_with_enough_deltas_and_not_with_fewer(region):
    region.online("device-1", "device-2", "device-3")
    region.hears(region.delta("device-1"), "device-1")
    region.waits(60.0)
    assert region.ledger.current_round().number == 0
    region.hears(region.delta("device-2"), "device-2")
    region.waits(60.0)
    assert region.ledger.current_round().number == 1


def test_after_the_last_round_the_offer_is_taken_off_the_broker():
    region = Region(limit=1)
    for name in ("device-1", "device-2"):
        region.hears(region.delta(name), name)
    region.waits(1.0)
    assert region.sent[-1] == (TOPICS.round, b"")
    assert region.ledger.current_round() is None
    assert region.service.wake_at is None


def test_after_an_older_ledger_came_back_rounds_go_on_beyond_those_that_devices_have_done(region):
    region.hears(region.delta("device-1", vector(1)), "device-1")
    with region.ledger.transaction():
        region.ledger.skip_to(1000)
    region.boot()
    assert region.offers()[-1].round == 1000
    region.hears(region.delta("device-2", vector(2)), "device-2")
    region.waits(1.0)
    expected = INITIAL + (vector(1).astype(float) + vector(2).astype(float)) / 2
    np.testing.assert_allclose(region.ledger.latest_version().exact, expected, rtol=1e-12)
    assert region.offers()[-1].round == 1001


def test_a_raised_limit_goes_on_after_the_last_round():
    region = Region(limit=1)
    for name in ("device-1", "device-2"):
        region.hears(region.delta(name), name)
    region.waits(1.0)
    region.limit = 3
    region.boot()
    assert region.ledger.current_round().number == 1


def test_a_ledger_of_another_model_is_refused_with_what_to_do(region):
    old = region.service
    service = Service(
        region.ledger,
        old.author,
        TOPICS,
        Model("other", "e" * 64, INITIAL),
        old.settings,
        old.engine,
        old.send,
        old.authority,
    )
    with pytest.raises(MarramError, match="new state folder"):
        service.start(region.now)


# ---- delivered twice, replayed, late


def test_a_delta_that_comes_again_is_acknowledged_again_and_counted_once(region):
    sealed = region.delta()
    for _ in range(3):
        region.hears(sealed)
    assert region.receipts() == [envelope.digest(sealed)] * 3
    assert region.stored == {0: ["device-1"]}
    assert region.ledger.refusals() == {}


def test_a_delta_of_a_closed_round_said_again_is_counted_as_replay_and_acknowledged(region):
    sealed = region.delta("device-1")
    region.hears(sealed)
    region.hears(region.delta("device-2"), "device-2")
    region.waits(1.0)
    region.hears(sealed)
    assert region.ledger.refusals() == {reasons.REPLAYED: 1}
    assert region.receipts() == [envelope.digest(sealed)] * 2
    assert region.stored == {0: ["device-1", "device-2"], 1: []}


def test_a_delta_made_for_a_ledger_that_was_lost_is_refused_even_if_it_fits(region):
    sealed = Region().delta()
    region.hears(sealed)
    assert region.refusals() == [reasons.STALE_ROUND]
    assert region.stored == {0: []}


def test_a_second_delta_of_a_device_in_a_round_is_refused(region):
    region.hears(region.delta())
    region.hears(region.delta(vector=vector(5)))
    assert region.refusals() == [reasons.REPLAYED]
    assert region.stored == {0: ["device-1"]}


def test_a_device_refused_for_its_delta_can_still_send_a_good_one(region):
    region.hears(region.delta(chain="float16"))
    region.hears(region.delta())
    assert region.refusals() == [reasons.WRONG_CHAIN]
    assert len(region.receipts()) == 1


# ---- refused by name

LATE = Metrics(10, float("nan"), 0.5)


def hostile(region):
    """(name of the case, reason, sealed message, device below whose topic it comes)"""
    foreign = certified("device", "device-9")
    outside = author_of(
        stranger().issue(author("device", "device-1").subject, foreign[1].public_key()), foreign[1]
    )
    nan, huge = np.full(SIZE, np.nan, "<f4").tobytes(), np.full(SIZE, 1e6, "<f4").tobytes()
    two = author("device", "device-2")
    yield "wrong base", reasons.WRONG_BASE, region.delta(base=b"b" * 32), "device-1"
    yield "no base", reasons.WRONG_BASE, region.delta(base=None), "device-1"
    yield "stale", reasons.STALE_ROUND, region.delta(round=99), "device-1"
    yield "two rounds", reasons.MALFORMED, region.delta(header_round=7), "device-1"
    yield "chain", reasons.WRONG_CHAIN, region.delta(chain="float16"), "device-1"
    yield "NaN", reasons.BAD_VALUES, region.delta(payload=nan), "device-1"
    yield "infinity", reasons.BAD_VALUES, region.delta(payload=b"\0\0\x80\x7f" * SIZE), "device-1"
    yield "huge", reasons.BAD_VALUES, region.delta(payload=huge), "device-1"
    yield "short", reasons.BAD_VALUES, region.delta(payload=b"\0" * (4 * SIZE - 1)), "device-1"
    yield "long", reasons.BAD_VALUES, region.delta(payload=b"\0" * (4 * SIZE + 4)), "device-1"
    yield "float16", reasons.BAD_VALUES, region.delta(payload=b"\0" * (2 * SIZE)), "device-1"
    yield "empty", reasons.BAD_VALUES, region.delta(payload=b""), "device-1"
    yield "loss", reasons.BAD_VALUES, region.delta(before=Metrics(1, float("nan"))), "device-1"
    yield "loss after", reasons.BAD_VALUES, region.delta(after=Metrics(1, float("inf"))), "device-1"
    yield "accuracy", reasons.BAD_VALUES, region.delta(after=Metrics(1, 1.0, 1.5)), "device-1"
    yield "samples", reasons.BAD_VALUES, region.delta(samples=1001), "device-1"
    yield "windows before", reasons.BAD_VALUES, region.delta(before=Metrics(1001, 1.0, 0.5)), "device-1"
    yield "windows after", reasons.BAD_VALUES, region.delta(after=Metrics(1001, 1.0, 0.5)), "device-1"
    yield "no samples", reasons.MALFORMED, region.delta(samples=0), "device-1"
    yield "many samples", reasons.MALFORMED, region.delta(samples=1 << 50), "device-1"
    yield "unknown", reasons.UNKNOWN_DEVICE, region.delta(who=author("device", "device-9")), "device-1"
    yield "outside", reasons.UNKNOWN_DEVICE, region.delta(who=outside), "device-1"
    yield "sender", reasons.WRONG_SENDER, region.delta(who=two), "device-1"
    yield "topic", reasons.BAD_SIGNATURE, region.delta(topic=TOPICS.up("device-1", "decline")), "device-1"
    yield "cut", reasons.MALFORMED, region.delta()[:-1], "device-1"
    yield "trailing", reasons.MALFORMED, region.delta() + b"\0", "device-1"
    yield "garbage", reasons.MALFORMED, b"garbage", "device-1"
    yield "nested", reasons.MALFORMED, b"\x81" * 5000 + b"\x80", "device-1"
    receipt = author("device", "device-1").seal(Receipt(0, b"d" * 32), TOPICS.up("device-1", "delta"), 5)
    yield "kind", reasons.WRONG_KIND, receipt, "device-1"
    other = dataclasses.replace(author("device", "device-1").subject, fleet="another")
    fleet = dataclasses.replace(author("device", "device-1"), subject=other)
    yield "fleet", reasons.WRONG_FLEET, region.delta(who=fleet), "device-1"


CASES = [case[0] for case in hostile(Region())]


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_delta_is_refused_by_its_name_and_the_region_goes_on(region, case):
    [(_, reason, sealed, device)] = [one for one in hostile(region) if one[0] == case]
    region.hears(sealed, device)
    assert region.ledger.refusals() == {reason: 1}
    assert region.receipts() == []
    assert region.refusals(device) == ([] if reason == reasons.BAD_SIGNATURE else [reason])
    region.hears(region.delta("device-1"), "device-1")
    region.hears(region.delta("device-2"), "device-2")
    region.waits(1.0)
    assert region.ledger.rounds()[0].counted == 2
    assert as_objects(region.ledger)["refused"] == {reason: 1}
    assert reason in as_text(region.ledger, 10)


def test_hundreds_of_hostile_messages_between_good_ones_change_no_sum(region):
    calm = Region()
    order = random.Random(1)
    for round in range(3):
        bad = [(sealed, device) for _, _, sealed, device in hostile(region)] * 4
        order.shuffle(bad)
        for number, name in enumerate(region.names):
            for sealed, device in bad[number::3]:
                region.hears(sealed, device)
            region.hears(region.delta(name, vector(round * 10 + number)), name)
            calm.hears(calm.delta(name, vector(round * 10 + number)), name)
        region.waits(1.0)
        calm.waits(1.0)
    assert region.stored == calm.stored
    assert region.ledger.latest_version().digest == calm.ledger.latest_version().digest
    assert sum(region.ledger.refusals().values()) == 3 * 4 * len(CASES)
    assert set(region.ledger.refusals()) >= {reason for _, reason, _, _ in hostile(region)}


def test_a_revoked_device_is_refused_and_not_waited_for(region):
    region.online(*region.names)
    region.ledger.revoke_device("device-3", region.now)
    region.hears(region.delta("device-3"), "device-3")
    assert region.refusals("device-3") == [reasons.REVOKED]
    for name in ("device-1", "device-2"):
        region.hears(region.delta(name), name)
    region.waits(region.rules.grace)
    assert region.ledger.current_round().number == 1
    assert region.stored[0] == ["device-1", "device-2"]


def test_a_counter_that_does_not_rise_is_refused(region):
    region.hears(region.delta(counter=1000))
    region.hears(region.delta("device-2"), "device-2")
    region.waits(1.0)
    region.hears(region.delta(counter=1000, vector=vector(1)))
    region.hears(region.delta(counter=1001, vector=vector(1)))
    assert region.refusals() == [reasons.REPLAYED]
    assert region.stored[1] == ["device-1"]


def test_a_delta_moved_to_another_topic_does_not_make_its_device_give_it_up(region):
    """A replay of somebody on the broker: the device must not hear that its good delta was refused."""
    sealed = region.delta()
    region.hears(sealed, kind="decline")
    assert region.ledger.refusals() == {reasons.BAD_SIGNATURE: 1}
    assert region.refusals() == []
    region.hears(sealed)
    assert region.receipts() == [envelope.digest(sealed)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_delta_is_refused(region, place, bit):
    sealed = bytearray(region.delta())
    sealed[place % len(sealed)] ^= 1 << bit
    before = sum(region.ledger.refusals().values())
    region.hears(bytes(sealed))
    assert sum(region.ledger.refusals().values()) == before + 1
    assert region.receipts() == []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=300), st.sampled_from(["up/delta", "up/decline", "state", "up/other", "down/receipt"])
)
def test_any_bytes_on_any_topic_leave_the_service_alive(region, payload, where):
    region.service.take([(f"{TOPICS.root}/device/device-1/{where}", payload)], region.now)
    assert region.stored == {0: []}
    assert region.receipts() == []


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([f.name for f in msgspec.structs.fields(Delta)]), values, max_size=8))
def test_a_signed_delta_with_any_fields_is_refused_by_name(region, changes):
    """An enrolled device that has been taken over says anything at all, with a good signature."""
    fields = msgspec.to_builtins(
        Delta(region.ledger.run(), 0, 0, "float32", b"\0" * (4 * SIZE), 5, MEASURED, MEASURED),
        builtin_types=(bytes,),
    )
    who, topic = author("device", "device-1"), TOPICS.up("device-1", "delta")
    region.counter += 1
    header = envelope.Header(
        content_type="marram/delta", fleet="fleet", sender="device-1", counter=region.counter, round=0,
        base=b"b" * 32, key_id=who.signer.key_id,
    )  # fmt: skip
    before = sum(region.ledger.refusals().values())
    region.hears(envelope.seal(cbor.encode({**fields, **changes}), header, topic, who.signer))
    assert sum(region.ledger.refusals().values()) == before + 1
    assert region.receipts() == []


# ---- chunks


def test_frames_of_several_devices_may_be_mixed(region):
    messages = {name: region.delta(name) for name in region.names}
    frames = [(name, frame) for name, sealed in messages.items() for frame in chunks.split(sealed, 100)]
    random.Random(1).shuffle(frames)
    for name, frame in frames:
        region.hears_raw(frame, name)
    assert region.stored == {0: region.names}


def test_a_bad_frame_does_not_cost_the_device_what_came_before_it(region):
    frames = chunks.split(region.delta(), 100)
    for frame in frames[:-1]:
        region.hears_raw(frame)
    region.hears_raw(b"garbage")
    region.hears_raw(frames[-1])
    assert region.ledger.refusals() == {reasons.MALFORMED: 1}
    assert len(region.receipts()) == 1


def test_a_message_larger_than_any_delta_is_refused_with_its_first_frame(region):
    frame = cbor.encode([b"t" * 16, 0, 60_000, 1 << 40, b"x" * 1000])
    region.hears_raw(frame)
    assert region.ledger.refusals() == {reasons.TOO_LARGE: 1}


def test_unfinished_messages_take_bounded_memory_and_the_one_that_waits_longest_goes():
    reassembly = Reassembly(max_size=10_000, max_held=50_000)
    messages = {f"device-{number}": bytes([number]) * 8000 for number in range(20)}
    for name, message in messages.items():
        for frame in chunks.split(message, 1000)[:-1]:
            assert reassembly.add(name, frame) is None
    finished = [
        name for name, message in messages.items() if reassembly.add(name, chunks.split(message, 1000)[-1])
    ]
    assert 4 <= len(finished) <= 6
    assert finished == list(messages)[-len(finished) :]


# ---- the disk


def test_nothing_of_a_batch_whose_transaction_fails_is_acknowledged(region):
    sealed = {name: region.delta(name) for name in region.names}
    region.disk.broken = lambda: True
    batch = [
        (TOPICS.up(name, "delta"), frame)
        for name, message in sealed.items()
        for frame in chunks.split(message)
    ]
    region.sent.clear()
    region.service.take(batch, region.now)
    assert region.sent == []
    assert region.stored == {0: []}
    region.disk.broken = lambda: False
    region.service.take(batch, region.now)
    assert all(region.receipts(name) == [envelope.digest(sealed[name])] for name in region.names)


def test_a_round_that_cannot_be_closed_on_a_full_disk_is_closed_later(region):
    for name in ("device-1", "device-2"):
        region.hears(region.delta(name), name)
    region.disk.broken = lambda: True
    for _ in range(5):
        region.waits(10.0)
        region.hears(region.delta("device-3"), "device-3")
    assert region.receipts("device-3") == []
    region.disk.broken = lambda: False
    region.waits(60.0)
    region.waits(60.0)
    assert region.ledger.rounds()[0].counted == 2
    assert region.ledger.current_round().number == 1
    assert region.refusals("device-3") == []


@pytest.mark.parametrize("cut", range(12))
def test_after_a_power_cut_at_any_commit_the_aggregator_goes_on_where_the_ledger_is(cut):
    fuse = iter(range(10**6))
    region = Region()
    region.disk.power = lambda: next(fuse) == cut
    messages = {}
    for round in range(3):
        for number, name in enumerate(region.names):
            for _ in range(3):  # the device sends until its receipt is there
                if name not in messages:
                    messages[name] = region.delta(name, vector(10 * round + number))
                try:
                    region.hears(messages[name], name)
                except Crash:
                    region.boot()
            assert envelope.digest(messages[name]) in region.receipts(name)
        while region.ledger.current_round().number == round:
            try:
                region.waits(1.0)
            except Crash:
                region.boot()
        messages.clear()
    exact = INITIAL.astype(np.float64)
    for round in range(3):
        exact = exact + sum(vector(10 * round + number).astype(np.float64) for number in range(3)) / 3
    np.testing.assert_allclose(region.ledger.latest_version().exact, exact, atol=1e-6)
    assert [one.counted for one in region.ledger.rounds()] == [3, 3, 3, None]


def test_a_restart_in_mid_round_offers_the_same_round_again():
    region = Region(rules=Rules(minimum=3, deadline=60.0))
    region.hears(region.delta())
    first = region.offers()[0]
    region.boot()
    assert region.offers()[-1] == first
    for name in ("device-2", "device-3"):
        region.hears(region.delta(name), name)
    region.waits(1.0)
    assert region.ledger.rounds()[0].counted == 3


def test_old_artefacts_are_taken_off_the_broker_and_every_offer_leads_from_nothing_to_its_base(region):
    retained = {}
    for round in range(8):
        for name in region.names:
            region.hears(region.delta(name, vector(round)), name)
        region.waits(1.0)
    for topic, payload in region.sent:
        retained[topic] = payload
    offer = region.offers()[-1]
    assert any(one.kind == "snapshot" for one in offer.artefacts)
    for one in offer.artefacts:
        assert retained[TOPICS.parameters(one.version, one.kind, 0)]
    there = {topic for topic, payload in retained.items() if "/parameters/" in topic and payload}
    assert there == {TOPICS.parameters(one.version, one.kind, 0) for one in offer.artefacts}


def test_artefacts_that_a_killed_aggregator_left_on_the_broker_are_taken_off_at_its_next_start(region):
    retained, drops = {}, 0
    while drops < 2:
        for name in region.names:
            region.hears(region.delta(name), name)
        region.waits(1.0)
        drops += any(not payload for _, payload in region.sent)
        # At the second time it is killed before it takes anything off.
        retained |= {topic: payload for topic, payload in region.sent if payload or drops < 2}
        region.sent.clear()
    left = {topic for topic, payload in retained.items() if "/parameters/" in topic and payload}
    region.boot()
    region.service.connected(region.now)
    retained |= dict(region.sent)
    there = {topic for topic, payload in retained.items() if "/parameters/" in topic and payload}
    offer = region.offers()[-1]
    assert there == {TOPICS.parameters(one.version, one.kind, 0) for one in offer.artefacts} < left


def test_a_key_of_another_curve_cannot_even_be_enrolled_silently(region):
    key = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(ValueError, match="P-256"):
        author_of(stranger().issue(author("device", "device-1").subject, key.public_key()), key)
