"""The participant's hands: what it wants is done, and a failing disk stops nothing for good."""

import numpy as np
from marram.learning import participant as machine
from marram.learning.shell import PAUSE
from marram.wire import reasons
from marram.wire.messages import Decline, Delta

from tests.support.aggregator import SIZE, TOPICS
from tests.unit.learning.test_participant import opened


def fill(device) -> None:
    device.disk.broken = lambda: True


def empty(device) -> None:
    device.disk.broken = lambda: False


def test_a_large_delta_travels_in_frames_that_the_broker_takes(device, voice):
    frames = []
    publish = device.publish
    device.publish = lambda topic, payload, retain=False: (
        frames.append(payload) or publish(topic, payload, retain)
    )
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0)))
    device.trained()
    assert len(frames) > 1
    assert max(map(len, frames)) <= 200
    assert len(device.deltas) == 1


def test_a_training_whose_delta_is_not_finite_is_declined_and_loses_nothing(device, voice):
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0)))
    device.trained(np.full(SIZE, np.nan, np.float32))
    assert device.deltas == []
    assert "NaN" in opened(device.sent[-1][1], Decline).reason


def test_after_a_disk_error_the_device_takes_part_again_when_there_is_room(device, voice):
    offer = voice.sealed_offer(voice.offer(0))
    device.hears(TOPICS.round, offer)
    fill(device)
    device.trained(np.ones(SIZE, np.float32), samples=1)
    assert device.deltas == []
    assert TOPICS.round in device.topics  # subscribed again, so the broker sends the offer again
    empty(device)
    device.hears(TOPICS.round, offer)
    device.waits(PAUSE)
    device.trained()
    assert len(device.deltas) == 1


def test_a_full_disk_does_not_make_the_device_train_again_and_again(device, voice):
    offer = voice.sealed_offer(voice.offer(0))
    device.hears(TOPICS.round, offer)
    fill(device)
    for _ in range(20):
        device.hears(TOPICS.round, offer)
        if device.training:
            device.trained()
        device.waits(1.0)
    assert len(device.trainings) == 1


def test_an_older_delta_is_still_sent_after_a_disk_error(device, voice):
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0)))
    device.trained()
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(1)))
    fill(device)
    device.trained()
    device.sent.clear()
    device.waits(machine.RESEND_FIRST)
    assert len(device.deltas) == 1
    empty(device)
    device.hears(*voice.receipt("device-1", 0, device.deltas[0]))
    assert device.participant.outbox == 0


def test_trees_travel_as_they_are_and_are_not_owed_when_they_came_too_late(device, voice):
    voice.chain = "trees(4)"
    device.hears(TOPICS.round, voice.sealed_offer(voice.offer(0)))
    device.trained(b"what the trainer left")
    [(_, sealed)] = device.sent
    assert opened(sealed, Delta).payload == b"what the trainer left"
    device.hears(
        *voice.refusal(device.participant.author.subject.name, device.deltas[0], reasons.STALE_ROUND)
    )
    assert device.participant.outbox == 0
    assert device.journal.residual() is None
