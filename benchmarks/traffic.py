"""What a round costs one device in bytes, from the messages that a real service and a real device seal.

Counted are topics and payloads as a broker gets them, frames of chunks included; MQTT's own few bytes a
message, TCP and IP come on top for every chain alike.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from marram.storage import open_database
from marram.wire import chunks
from marram.wire.codec.chain import Chain
from marram.wire.codec.seed import device_seed
from marram.wire.messages import Delta, Metrics
from marram.wire.topics import Topics
from marram_cloud.engines.local import LocalEngine
from marram_cloud.ledger import ledger as ledgers
from marram_cloud.ledger.ledger import Ledger
from marram_cloud.rounds.coordinator import Rules
from marram_cloud.rounds.service import Model, Service
from marram_cloud.rounds.settings import RoundSettings

from benchmarks.federation import Setting
from examples.shoulder import people
from tests.support.identities import author, certified, fleet

_TOPICS = Topics("fleet", "region")
_DEVICE = "person-01"


@dataclass(frozen=True)
class Traffic:
    """Bytes of one device. up, down: of each round. Down are its offer, the delta's receipt, the update."""

    up: list[int]
    down: list[int]

    def until(self, rounds: int) -> tuple[int, int]:
        """(up, down) of the first so many rounds."""
        return sum(self.up[:rounds]), sum(self.down[:rounds])


def traffic(setting: Setting, rounds: int) -> Traffic:
    """Play so many rounds with one device, which has the bundle's parameters and misses no update."""
    sent: list[tuple[str, bytes]] = []
    now, result = time.time(), Traffic([], [])
    service = _service(setting, sent, now)
    service.start(now)
    for number in range(rounds):
        offer = [message for message in sent if message[0] == _TOPICS.round][-1:]
        sent.clear()
        # A second a round, so that counters are as long as real ones.
        delta = _delta(setting, service.ledger, int(now + number) * 1000)
        service.take(delta, now)
        snapshot = f"{_TOPICS.root}/parameters/{number + 1}/snapshot/"
        others = [m for m in sent if m[1] and m[0] != _TOPICS.round and not m[0].startswith(snapshot)]
        kinds = {topic.split("/")[3] for topic, _ in others}
        assert kinds == {"device", "parameters"}, f"no receipt or no update came: {kinds}"
        result.up.append(_bytes(delta))
        result.down.append(_bytes(offer) + _bytes(others))
    return result


def _service(setting: Setting, sent: list[tuple[str, bytes]], now: float) -> Service:
    """An aggregator's service with the one device enrolled; what it publishes goes to ``sent``."""
    bundle = people.bundle()
    ledger = Ledger(open_database(":memory:", ledgers.SCHEMA))
    certificate, _ = certified("device", _DEVICE)
    ledger.add_device(_DEVICE, certificate, now)
    return Service(
        ledger=ledger,
        author=author("aggregator", "aggregator"),
        authority=fleet().certificate,
        topics=_TOPICS,
        model=Model.of(bundle),
        settings=RoundSettings(
            rules=Rules(minimum=1, deadline=60.0, settle=0.0),
            steps=setting.steps,
            chain=setting.chain,
            update_chain=setting.update_chain,
            strategy=setting.strategy,
        ),
        engine=LocalEngine(),
        send=lambda topic, payload, retain: sent.append((topic, payload)),
    )


def _delta(setting: Setting, ledger: Ledger, counter: int) -> list[tuple[str, bytes]]:
    """The device's delta for the open round, in frames; its values, which cost no bytes, are random."""
    round = ledger.current_round()
    assert round is not None
    random = np.random.default_rng(round.number)
    vector = random.normal(0, 0.01, people.bundle().manifest.parameter_count).astype(np.float32)
    payload = Chain.parse(setting.chain).encode(vector, device_seed(round.seed, _DEVICE)).payload
    # Of as many digits as measured ones.
    before, after = (Metrics(100, float(random.random()), float(random.random())) for _ in range(2))
    message = Delta(ledger.run(), round.number, round.version, setting.chain, payload, 396, before, after)
    topic, base = _TOPICS.up(_DEVICE, "delta"), ledger.version_digest(round.version)
    sealed = author("device", _DEVICE).seal(message, topic, counter, round=round.number, base=base)
    return [(topic, frame) for frame in chunks.split(sealed)]


def _bytes(messages: list[tuple[str, bytes]]) -> int:
    return sum(len(topic) + len(payload) for topic, payload in messages)
