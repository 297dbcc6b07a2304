"""kill -9 of whatever a fleet is made of. A round needs every device and no device trains a round twice, so a
lost delta would stop all rounds, and one that was counted twice stands in the ledger."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from marram.wire import envelope
from marram.wire.messages import Receipt
from marram.wire.signed import read

from tests.support.fleet import TOPICS, Fleet
from tests.support.mosquitto import Client, Mosquitto
from tests.support.processes import ended, eventually
from tests.support.proxy import Proxy
from tests.support.sampled import drawn

ROUNDS = 5


def all_counted_once(fleet: Fleet) -> None:
    """The last round is closed; every device's every delta is in the ledger, once."""
    fleet.closed(ROUNDS, patience=90)
    fleet.settled()
    fleet.aggregator.counted_once()
    expected = [(number, device.name) for number in range(ROUNDS) for device in fleet.devices]
    assert [(number, name) for number, name, _ in fleet.aggregator.deltas()] == expected


def receipts(client: Client) -> set[bytes]:
    """The digests of the deltas whose receipt was published."""
    found = set()
    for topic, payload, _ in client.messages:
        if topic.endswith("/receipt"):
            found.add(read(envelope.parse(payload, 10_000), Receipt).delta)
    return found


@pytest.mark.parametrize("seed", drawn(["1", "2"], 1))
def test_an_aggregator_killed_at_random_points_goes_on_exactly_where_it_was(
    tmp_path: Path, seed: str
) -> None:
    moments = random.Random(int(seed))
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        Client(broker, TOPICS.down("+", "receipt")) as client,
        Fleet(tmp_path, broker.url, rounds={"limit": ROUNDS}) as fleet,
    ):
        fleet.start()
        for _ in range(4):
            time.sleep(moments.uniform(0.3, 1.5))
            fleet.aggregator.process.kill()
            fleet.aggregator.start()
        all_counted_once(fleet)
        taken = {digest for _, _, digest in fleet.aggregator.deltas()}
        # Sent before it was on disk, a receipt would speak of a delta that a kill took away.
        assert receipts(client) == taken


def test_whatever_is_killed_in_whatever_order_nothing_is_lost_or_counted_twice(tmp_path: Path) -> None:
    moments = random.Random(3)
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        Fleet(tmp_path, broker.url, rounds={"limit": ROUNDS}) as fleet,
    ):

        def restart(kill: Callable[[], None], start: Callable[[], None]) -> None:
            kill()
            time.sleep(moments.uniform(0, 0.5))
            start()

        fleet.start()
        victims = [(fleet.aggregator.process.kill, fleet.aggregator.start), (broker.kill, broker.start)]
        victims += [(device.process.kill, device.start) for device in fleet.devices]
        moments.shuffle(victims)
        for kill, start in victims:
            time.sleep(moments.uniform(0.2, 1.0))
            restart(kill, start)
        all_counted_once(fleet)


def test_a_device_killed_in_training_ends_its_trainer_and_trains_again(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        Fleet(tmp_path, broker.url, rounds={"limit": ROUNDS, "epochs": 6}) as fleet,
    ):
        fleet.start().closed(1)
        device = fleet.devices[0]
        device.until("a training", lambda status: status["training"]["running"])
        trainer = device.status()["training"]["running"]
        device.process.kill()
        if trainer is not None:
            eventually("the end of its trainer", lambda: ended(trainer))
        device.start()
        all_counted_once(fleet)


def test_a_delta_that_was_in_the_outbox_when_the_power_failed_is_counted_once(tmp_path: Path) -> None:
    rounds = {"limit": ROUNDS, "epochs": 6}
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        Proxy(broker.port) as proxy,
        Fleet(tmp_path, broker.url, rounds=rounds) as fleet,
    ):
        device = fleet.devices[0]
        device.write(cloud={"broker": proxy.url})
        fleet.start().closed(1)
        device.until("a training", lambda status: status["training"]["running"])
        proxy.cut()
        digest = device.has_a_delta()
        device.process.kill()
        assert digest not in {taken for _, _, taken in fleet.aggregator.deltas()}
        proxy.mend()
        device.start()
        all_counted_once(fleet)
        assert [taken for _, _, taken in fleet.aggregator.deltas()].count(digest) == 1


def test_a_delta_sent_into_a_half_dead_network_is_counted_once(tmp_path: Path) -> None:
    rounds = {"limit": ROUNDS, "epochs": 6}
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        Proxy(broker.port) as proxy,
        Fleet(tmp_path, broker.url, rounds=rounds) as fleet,
    ):
        device = fleet.devices[0]
        device.write(cloud={"broker": proxy.url, "keepalive": "1s"})
        fleet.start().closed(1)
        device.until("a training", lambda status: status["training"]["running"])
        proxy.stall()
        device.has_a_delta()
        device.until("a lost link", lambda status: not status["link"]["connected"])
        proxy.flow()
        all_counted_once(fleet)


def test_a_receipt_that_was_lost_is_sent_again(tmp_path: Path) -> None:
    """The delta reaches the aggregator, and the link dies before the receipt comes back."""
    rounds = {"limit": ROUNDS, "epochs": 6}
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        Proxy(broker.port) as proxy,
        Fleet(tmp_path, broker.url, rounds=rounds) as fleet,
    ):
        device = fleet.devices[0]
        device.write(cloud={"broker": proxy.url})
        fleet.start().closed(1)
        device.until("a training", lambda status: status["training"]["running"])
        proxy.deafen()
        digest = device.has_a_delta()
        eventually(
            "the delta in the ledger",
            lambda: digest in {taken for _, _, taken in fleet.aggregator.deltas()},
        )
        proxy.cut()
        proxy.flow()
        assert device.status()["rounds"]["outbox"] == 1
        proxy.mend()
        all_counted_once(fleet)


def test_a_fleet_goes_on_with_an_aggregator_that_lost_its_ledger(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "mosquitto") as broker, Fleet(tmp_path, broker.url) as fleet:
        fleet.start().closed(4)
        fleet.aggregator.process.kill()
        shutil.rmtree(fleet.aggregator.state)
        fleet.enrol(*(device.name for device in fleet.devices))
        fleet.aggregator.start()
        fleet.closed(2)
        fleet.aggregator.counted_once()
        assert all(device.process.said("the aggregator's rounds began anew") for device in fleet.devices)
