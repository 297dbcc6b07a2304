"""Somebody on the broker without any key: hears all, and may publish anything under any topic.

It says again what was said, cuts and flips it, moves it to another topic, puts a changed message into new
frames, and forges receipts out of the parts of real ones. It is faster than anybody: what it publishes
arrives at once and is never lost. That states are not signed is known: they can only
cost time, and it leaves them alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from marram.errors import WireError
from marram.wire import cbor, chunks, envelope
from marram.wire.messages import Receipt

from tests.simulation.network import Broker, Clock

_REMEMBERED = 1000
_SIGN1 = 18


@dataclass
class Attacker:
    """chance: of an attack on a message that it hears."""

    broker: Broker
    clock: Clock
    random: random.Random
    chance: float
    awake: Callable[[], bool]

    def hears(self, topic: str, payload: bytes) -> None:
        if self.awake() and self.random.random() < self.chance:
            self.clock.at(self.clock.now, lambda: self.attack(topic, payload))

    def attack(self, topic: str, payload: bytes) -> None:
        heard = [one for one in self.broker.tap[-_REMEMBERED:] if one[1]]
        if self.random.random() < 0.3:
            # Something old; frames of deltas are most of the traffic, so the kind is chosen first.
            kind = self.random.choice(sorted({_kind(place) for place, _ in heard}))
            topic, payload = self.random.choice([one for one in heard if _kind(one[0]) == kind])
        if payload:
            way = self.random.choice([self.again, self.damage, self.move, self.rebuild, self.forge])
            for place, message in way(topic, payload, heard):
                if not place.endswith("/state"):
                    self.broker.inject(place, message)

    def again(self, topic, payload, heard):
        yield from ((topic, frame) for frame in self.frames(payload, heard) or [payload])

    def damage(self, topic, payload, heard):
        yield topic, self.flipped(payload)
        yield topic, payload[: self.random.randrange(1, len(payload) + 1)]

    def move(self, topic, payload, heard):
        target = self.random.choice(heard)[0]
        if "/up/" in topic:
            target = topic.rpartition("/")[0] + self.random.choice(["/delta", "/decline"])
        yield from ((target, frame) for frame in self.frames(payload, heard) or [payload])

    def rebuild(self, topic, payload, heard):
        """A whole message with a flipped bit, in frames that fit together."""
        if (message := self.whole(payload, heard)) is not None:
            yield from ((topic, frame) for frame in chunks.split(self.flipped(message), 90))

    def forge(self, topic, payload, heard):
        """A receipt for a delta that has none, with the head and the signature of a real one."""
        message = self.whole(payload, heard)
        real = [sealed for place, sealed in heard if place.endswith("/receipt")]
        if message is None or not real:
            return
        try:
            protected, unprotected, _, signature = envelope.open1(self.random.choice(real))
        except WireError:
            return  # one of its own
        word = cbor.pack(Receipt(0, envelope.digest(message)))
        place = topic.replace("/up/delta", "/down/receipt")
        yield place, cbor.encode(cbor.Tagged(_SIGN1, [protected, unprotected, word, signature]))

    def whole(self, payload: bytes, heard: list[tuple[str, bytes]]) -> bytes | None:
        assembler = chunks.Assembler(1 << 20, 4)
        try:
            for frame in self.frames(payload, heard):
                if (message := assembler.add(frame)) is not None:
                    return message
        except WireError:
            pass
        return None

    def frames(self, payload: bytes, heard: list[tuple[str, bytes]]) -> list[bytes]:
        """All frames that were heard of the message that this frame belongs to; none for another message."""
        head = payload[:18]  # of the array, and the identity of the transfer
        if head[:2] != b"\x85\x50":
            return []
        return sorted({frame for _, frame in heard if frame[:18] == head})

    def flipped(self, payload: bytes) -> bytes:
        place = self.random.randrange(len(payload))
        return (
            payload[:place] + bytes([payload[place] ^ 1 << self.random.randrange(8)]) + payload[place + 1 :]
        )


def _kind(topic: str) -> str:
    return "parameters" if "/parameters/" in topic else topic.rpartition("/")[2]
