"""What the broker should keep for this aggregator, by digest, so that another's message there is noticed.

A broker may send the aggregator its own messages too, and late: what was published a while ago is known too.
"""

from __future__ import annotations

from marram.wire import envelope

_RECENT = 8192


class Retained:
    """The topics that hold something, and the last publications on any topic."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}
        self._recent: dict[tuple[str, bytes], None] = {}

    def __contains__(self, topic: str) -> bool:
        return topic in self._held

    def note(self, topic: str, payload: bytes) -> None:
        """This was (or is to be) published; an empty payload takes the topic away."""
        digest = envelope.digest(payload)
        self._held.pop(topic, None)
        if payload:
            self._held[topic] = digest
        self._recent.pop((topic, digest), None)
        self._recent[topic, digest] = None
        while len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]

    def knows(self, topic: str, payload: bytes) -> bool:
        """Whether this stands there by right, or did so."""
        digest = envelope.digest(payload)
        return self._held.get(topic) == digest or (topic, digest) in self._recent
