"""A release as messages: the signed word of it, and the bundle in parts, all retained by the broker."""

from __future__ import annotations

from collections.abc import Iterator

from marram.wire.topics import Topics

from marram_cloud.ledger.ledger import Ledger, StoredRelease

_PART_SIZE = 96 * 1024
_FACT = "part_size"


def remember_limit(ledger: Ledger, max_payload: int) -> None:
    """Keep in the ledger what the broker takes, for the releases that another process makes."""
    size = min(_PART_SIZE, max_payload)
    if ledger.fact(_FACT) != size:
        with ledger.transaction():
            ledger.set_fact(_FACT, size)


def part_size(ledger: Ledger) -> int:
    """Bytes of a release's part: at most what the broker took when the aggregator was last connected."""
    return int(str(ledger.fact(_FACT) or _PART_SIZE))


def messages(release: StoredRelease, topics: Topics) -> Iterator[tuple[str, bytes]]:
    """(topic, payload): the parts first, then the message that names them."""
    digest = release.digest.hex()[:16]
    count = max(1, -(-len(release.bundle) // release.part_size))
    for part in range(count):
        piece = release.bundle[part * release.part_size : (part + 1) * release.part_size]
        yield topics.release_part(release.model, digest, part), piece
    yield topics.release(release.model), release.sealed


def withdrawn(release: StoredRelease, topics: Topics) -> Iterator[tuple[str, bytes]]:
    """(topic, b""): takes an older release's parts off the broker."""
    digest = release.digest.hex()[:16]
    for part in range(max(1, -(-len(release.bundle) // release.part_size))):
        yield topics.release_part(release.model, digest, part), b""
