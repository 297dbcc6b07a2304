"""Bad input by the hundred, on a real broker, against the living aggregator and devices.

After each kind: an error with a name, counted; everybody alive; rounds go on; every delta counted once.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from marram.errors import WireError
from marram.wire import chunks, envelope
from marram.wire.envelope import KeySigner
from marram.wire.messages import Decline, Delta, Metrics, Offer, Receipt, Refusal
from marram.wire.signed import AggregatorTrust, Author, read

from tests.support.fleet import FLEET, REGION, TOPICS, Device, Fleet
from tests.support.hostile import frames, garbage, spoilt, whole
from tests.support.mosquitto import Client, Mosquitto
from tests.support.processes import eventually

UP = TOPICS.up("device-1", "delta")
_counters = itertools.count(1 << 50)


class Scene:
    """A fleet at work, somebody who may publish anything, and what went over the broker so far."""

    def __init__(self, fleet: Fleet, client: Client) -> None:
        self.fleet, self.client = fleet, client
        frames_ = [payload for topic, payload, _ in list(client.messages) if topic == UP]
        self.real = [delta for frame in frames_ if (delta := whole([frame])) is not None]

    @property
    def devices(self) -> list[Device]:
        return self.fleet.devices

    def refused(self) -> dict[str, int]:
        return self.fleet.aggregator.refused()

    def send(self, topic: str, message: bytes) -> None:
        """A whole message as a device sends it."""
        for frame in chunks.split(message):
            self.client.publish(topic, frame)

    def refuses(self, reason: str, count: int = 1) -> Any:
        """Inside this block the aggregator refuses so many messages for this reason."""
        return _Refuses(self, reason, count)

    def all_well(self) -> None:
        """Everybody is alive, and rounds go on in which every delta counts once."""
        self.fleet.goes_on(2)
        self.fleet.aggregator.counted_once()
        for device in self.devices:
            assert device.answers()
            windows = device.status()["windows"]
            assert (windows["dropped"], windows["failed"]) == (0, 0)
            # Nothing but this sealed, verified answer takes a delta out of an outbox.
            assert device.status()["rounds"]["last_refusal"] == ""

    def offers(self) -> list[bytes]:
        """Every real sealed offer so far, oldest first."""
        authority = self.devices[0].identity.authority
        trust = AggregatorTrust(authority, FLEET, REGION)
        found = []
        for topic, payload, _ in list(self.client.messages):
            if topic == TOPICS.round:
                with suppress(WireError):
                    trust.open(payload, topic, Offer, time.time())
                    found.append(payload)
        return found

    def offer(self) -> Offer:
        """The newest offer."""
        return read(envelope.parse(self.offers()[-1], 1 << 20), Offer)


class _Refuses:
    def __init__(self, scene: Scene, reason: str, count: int) -> None:
        self._scene, self._reason, self._count = scene, reason, count

    def __enter__(self) -> None:
        self._before = self._scene.refused().get(self._reason, 0)

    def __exit__(self, failed: object, *_: object) -> None:
        if failed is None:
            eventually(
                f"{self._count} refusals as {self._reason}",
                lambda: self._scene.refused().get(self._reason, 0) >= self._before + self._count,
            )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("hostile")
    with (
        Mosquitto(folder / "mosquitto") as broker,
        Client(broker, "marram/#") as client,
        Fleet(folder, broker.url, rounds={"every": "300ms", "chain": "float32"}) as fleet,
    ):
        # device-3 is enrolled and has no process: what it signs is real.
        fleet.enrol("device-3")
        for device in fleet.devices:
            device.write(labels={"mqtt": {"broker": broker.url, "topic": "labels/#"}})
        fleet.start().closed(2)
        yield Scene(fleet, client)


@pytest.fixture(scope="module")
def insider(scene: Scene) -> Author:
    """An enrolled device's real key, in bad hands."""
    identity = scene.fleet.folder / "fleet" / "devices" / "device-3"
    return Device(scene.fleet.folder / "device-3", "device-3", identity, scene.fleet.broker, 3, {}).author


def forged(author: Author, offer: Offer, **changes: Any) -> bytes:
    """A delta that fits the offer but for the changes, sealed by this author for its own topic."""
    metrics = Metrics(10, 1.0, 0.5)
    delta = Delta(offer.run, offer.round, offer.version, offer.chain, bytes(4 * 9751), 10, metrics, metrics)
    delta = msgspec.structs.replace(delta, **{k: v for k, v in changes.items() if k != "base"})
    topic = TOPICS.up(author.subject.name, "delta")
    base = changes.get("base", offer.digest)
    return author.seal(delta, topic, next(_counters), round=delta.round, base=base)


def test_bytes_that_are_no_message_on_every_topic_of_a_device(scene: Scene) -> None:
    bad = garbage() + frames()
    with scene.refuses("malformed", len(bad)), scene.refuses("too_large", 2):
        for number, payload in enumerate(bad):
            kind = ("delta", "decline")[number % 2]
            scene.client.publish(TOPICS.up("device-1", kind), payload)
            scene.client.publish(TOPICS.up("nobody-at-all", kind), payload)
    scene.all_well()


def test_bytes_that_are_no_state_on_state_topics(scene: Scene) -> None:
    for payload in [*garbage(), b'{"online":"maybe"}', b"[true]", b'{"online":true}' + b" " * 9000]:
        scene.client.publish(TOPICS.state("device-3"), payload, retain=True)
    # Somebody says that devices are there which are not: they are not waited for.
    for name in ("ghost", "x" * 200, "device-9"):
        scene.client.publish(TOPICS.state(name), b'{"online":true}', retain=True)
    scene.all_well()


def test_real_deltas_cut_short_lengthened_and_with_bits_turned_over(scene: Scene) -> None:
    real = scene.real[0]
    bad = list(spoilt(real, 100))
    before = sum(scene.refused().values())
    for message in bad:
        scene.send(UP, message)
    eventually("100 refusals", lambda: sum(scene.refused().values()) >= before + 100)
    assert {"malformed", "bad_signature"} <= scene.refused().keys()
    scene.all_well()


def test_replays_and_messages_on_other_topics(scene: Scene) -> None:
    taken = len(scene.fleet.aggregator.deltas())
    with scene.refuses("replayed"):
        scene.send(UP, scene.real[0])
    with scene.refuses("wrong_sender"):
        scene.send(TOPICS.up("device-2", "delta"), scene.real[0])
    with scene.refuses("bad_signature"):
        scene.send(TOPICS.up("device-1", "decline"), scene.real[0])
    with scene.refuses("unknown_device"):
        stranger = scene.devices[0].author
        scene.send(UP, _with_another_key(scene, stranger))
    scene.all_well()
    digests = [digest for _, _, digest in scene.fleet.aggregator.deltas()]
    assert len(set(digests)) == len(digests) > taken


def _with_another_key(scene: Scene, author: Author) -> bytes:
    """device-1's message, sealed with a key that nobody enrolled."""
    other = replace(author, signer=KeySigner(ed25519.Ed25519PrivateKey.generate()), chain=())
    return forged(other, scene.offer())


BAD_VALUES: dict[str, dict[str, Any]] = {
    "nan": {"payload": np.full(9751, np.nan, "<f4").tobytes()},
    "one-nan": {"payload": np.array([0.0] * 9750 + [np.nan], "<f4").tobytes()},
    "infinity": {"payload": np.full(9751, -np.inf, "<f4").tobytes()},
    "huge": {"payload": np.full(9751, 1e30, "<f4").tobytes()},
    "short": {"payload": bytes(4 * 9750)},
    "long": {"payload": bytes(4 * 9752)},
    "odd": {"payload": bytes(7)},
    "empty": {"payload": b""},
    "loss-nan": {"before": Metrics(10, float("nan"), 0.5)},
    "loss-infinity": {"after": Metrics(10, float("inf"), 0.5)},
    "accuracy-nan": {"after": Metrics(10, 1.0, float("nan"))},
    "accuracy-of-7": {"before": Metrics(10, 1.0, 7.0)},
}


@pytest.mark.parametrize("changes", BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_signed_delta_of_bad_values_is_refused(
    scene: Scene, insider: Author, changes: dict[str, Any]
) -> None:
    refused_for_its_values(scene, insider, "bad_values", changes)


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("wrong_base", {"base": bytes(32)}),
    "chain": ("wrong_chain", {"chain": "quantise(8)"}),
    "no-chain": ("wrong_chain", {"chain": "x" * 5000}),
    "future-round": ("stale_round", {"round": 10**6}),
    "no-samples": ("malformed", {"samples": 0}),
    "negative-samples": ("malformed", {"samples": -5}),
}


@pytest.mark.parametrize(("reason", "changes"), WRONG.values(), ids=WRONG)
def test_a_signed_delta_that_does_not_fit_is_refused(
    scene: Scene, insider: Author, reason: str, changes: dict[str, Any]
) -> None:
    refused_for_its_values(scene, insider, reason, changes)


def refused_for_its_values(scene: Scene, insider: Author, reason: str, changes: dict[str, Any]) -> None:
    """A round may close while the message is on its way: then it is tried in the next one."""
    before = scene.refused().get(reason, 0)

    def tried() -> bool:
        scene.send(TOPICS.up("device-3", "delta"), forged(insider, scene.offer(), **changes))
        stop = scene.fleet.aggregator.closed() + 1
        eventually(
            "an answer",
            lambda: scene.refused().get(reason, 0) > before or scene.fleet.aggregator.closed() > stop,
        )
        return scene.refused().get(reason, 0) > before

    eventually(f"a refusal as {reason}", tried)
    assert "device-3" not in {device for _, device, _ in scene.fleet.aggregator.deltas()}


def test_after_all_bad_deltas_the_report_can_be_read_and_rounds_go_on(scene: Scene) -> None:
    assert "bad_values" in scene.fleet.must("rounds", "-c", scene.fleet.aggregator.config)
    scene.fleet.must("rounds", "--json", "-c", scene.fleet.aggregator.config)
    scene.all_well()


def test_a_decline_of_nonsense_is_refused(scene: Scene, insider: Author) -> None:
    topic = TOPICS.up("device-3", "decline")
    with scene.refuses("wrong_kind"):
        scene.send(topic, insider.seal(Receipt(1, bytes(32)), topic, next(_counters)))
    with scene.refuses("malformed"):
        scene.send(topic, insider.seal(Decline(1, "x" * 5000), topic, next(_counters)))
    scene.all_well()


def counts_as(device: Device, reason: str, before: dict[str, int], count: int = 1) -> None:
    device.until(
        f"{count} refusals as {reason}",
        lambda status: status["rounds"]["refused_messages"].get(reason, 0) >= before.get(reason, 0) + count,
    )


def test_bytes_that_are_no_message_on_every_topic_that_a_device_reads(scene: Scene) -> None:
    device = scene.devices[0]
    before = device.status()["rounds"]["refused_messages"]
    bad = [payload for payload in garbage() if payload]
    for payload in bad:
        for topic in (TOPICS.round, TOPICS.down("device-1", "receipt"), TOPICS.down("device-1", "refusal")):
            scene.client.publish(topic, payload)
        scene.client.publish(TOPICS.timestamp, payload)
        scene.client.publish(TOPICS.down("device-1", "block"), payload)
    counts_as(device, "malformed", before, 3 * len(bad))
    scene.all_well()


def test_what_a_device_signs_is_no_offer_receipt_or_refusal(scene: Scene, insider: Author) -> None:
    device = scene.devices[0]
    before = device.status()["rounds"]["refused_messages"]
    outbox = scene.fleet.aggregator.deltas()[-1][2]
    offer = msgspec.structs.replace(scene.offer(), round=10**6)
    sealed = insider.seal(offer, TOPICS.round, next(_counters), round=offer.round, introduce=True)
    scene.client.publish(TOPICS.round, sealed)
    for kind, message in (("receipt", Receipt(1, outbox)), ("refusal", Refusal(outbox, "stale_round"))):
        topic = TOPICS.down("device-1", kind)
        scene.client.publish(topic, insider.seal(message, topic, next(_counters), introduce=True))
    counts_as(device, "wrong_sender", before, 3)
    scene.all_well()


def test_real_offers_that_are_old_moved_or_damaged_are_refused(scene: Scene) -> None:
    device = scene.devices[0]
    real = scene.offers()
    before = device.status()["rounds"]["refused_messages"]
    scene.client.publish(TOPICS.round, real[0])
    counts_as(device, "replayed", before)
    for message in spoilt(real[-1], 60):
        scene.client.publish(TOPICS.round, message)
    scene.client.publish(TOPICS.down("device-1", "receipt"), real[-1])
    counts_as(device, "bad_signature", before, 5)
    scene.all_well()


def test_labels_and_requests_of_nonsense(scene: Scene) -> None:
    device = scene.devices[0]
    for payload in [*garbage(), b'{"label":1,"from":2,"to":3}', b'{"label":"TRAP","from":1e999,"to":0}',
                    b'{"label":"JUMP","from":1,"to":2}', b'{"label":"TRAP","from":5,"to":2}']:  # fmt: skip
        scene.client.publish("labels/x", payload)
        _ask(device, payload.replace(b"\n", b"") + b"\n")
    for request in (b'{"command":"stop"}', b'{"command":"label"}', b'{"command":["status"]}', b'"status"',
                    b'{"command":"label","label":"TRAP","from":"x","to":1}',
                    b'{"command":"label","label":"TRAP","from":NaN,"to":1}'):  # fmt: skip
        assert b'"error"' in _ask(device, request + b"\n")
    eventually("the warning", lambda: device.process.said("a label on labels/x was not understood"))
    scene.all_well()


def _ask(device: Device, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(device.socket))
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(1 << 20)


def test_garbage_that_the_broker_keeps_is_put_right_by_the_aggregator(scene: Scene) -> None:
    """Without access rules on the broker anybody can spoil what it keeps for devices that come later."""
    fleet, client = scene.fleet, scene.client
    snapshots = [artefact for artefact in scene.offer().artefacts if artefact.kind == "snapshot"]
    with scene.refuses("wrong_sender", 3):
        client.publish(TOPICS.round, b"garbage", retain=True)
        for artefact in snapshots:
            for part in range(artefact.parts):
                topic = TOPICS.parameters(artefact.version, "snapshot", part)
                client.publish(topic, b"garbage", retain=True)
        client.publish(TOPICS.parameters(10**6, "update", 0), b"garbage", retain=True)
        fleet.release()
        client.publish(TOPICS.timestamp, b"garbage", retain=True)
    fleet.enrol("late")
    late = Device(
        fleet.folder / "late", "late", fleet.folder / "fleet" / "devices" / "late", fleet.broker, 4, {}
    )
    try:
        late.start()
        late.until("its part in a round", lambda status: status["rounds"]["deltas"] > 0)
        arrived = ("verified", "preflighted", "trial", "committed")
        late.until("the release, verified", lambda status: status["release"]["stage"] in arrived)
    finally:
        late.process.kill()
    scene.all_well()
