"""Chunks: a sealed message that is larger than a broker takes travels as several frames.

A frame is a CBOR array ``[transfer, index, count, size, data]``: transfer is the first 16 bytes of the
message's sha256, index counts from 0 to count - 1, size is the length of the whole message in bytes. All
frames of a message but the last carry equally many bytes. Frames are not signed: the message is, and
its hash is checked when the last frame is there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from marram.errors import WireError
from marram.wire import cbor, reasons

DEFAULT_LIMIT: Final = 96 * 1024
MAX_COUNT: Final = 1 << 16
# Heads of the array and of data, 16 bytes with their head, index and count of up to 5, size of up to 9.
_OVERHEAD: Final = 1 + 17 + 5 + 5 + 9 + 5


def transfer_of(message: bytes) -> bytes:
    """The identity of a message's transfer: 16 bytes."""
    return hashlib.sha256(message).digest()[:16]


def split(message: bytes, limit: int = DEFAULT_LIMIT) -> list[bytes]:
    """The frames of ``message``, each of at most ``limit`` bytes in all; at least one.

    Raises ValueError if the limit is so small that more than 65,536 frames would be needed.
    """
    room = limit - _OVERHEAD
    count = max(1, -(-len(message) // room)) if room > 0 else MAX_COUNT + 1
    if count > MAX_COUNT:
        raise ValueError(f"{len(message)} bytes do not go into {MAX_COUNT} frames of {limit} bytes")
    transfer = transfer_of(message)
    pieces = (message[index * room : (index + 1) * room] for index in range(count))
    return [cbor.encode([transfer, index, count, len(message), data]) for index, data in enumerate(pieces)]


@dataclass(slots=True)
class _Transfer:
    count: int
    size: int
    pieces: dict[int, bytes] = field(default_factory=dict)
    received: int = 0


class Assembler:
    """Puts frames together again, in any order, with duplicates and gaps; holds no clock and no socket.

    max_size: bytes a message may have. max_transfers: incomplete messages that are kept; when one more
    begins, the one that began first is dropped, so that at most ``max_size * max_transfers`` bytes are held.
    A transfer that is complete is forgotten: sent again as a whole, the message is given again.
    """

    def __init__(self, max_size: int, max_transfers: int) -> None:
        if max_size < 1 or max_transfers < 1:
            raise ValueError("an assembler needs room for at least one byte and one transfer")
        self._max_size = max_size
        self._max_transfers = max_transfers
        self._transfers: dict[bytes, _Transfer] = {}

    def add(self, frame: bytes) -> bytes | None:
        """Takes a frame; the message, if this was the last one missing.

        Raises WireError(TOO_LARGE) for a message over ``max_size``, WireError(MALFORMED) for a frame that
        is damaged; what was held is kept. A frame that contradicts an earlier one of its transfer is refused
        and the transfer forgotten: which of the two is right cannot be told, and keeping the first would
        let one bad frame block a message for ever. A message whose hash is wrong is dropped and refused.
        """
        identity, index, count, size, data = self._read(frame)
        transfer = self._transfers.get(identity)
        if transfer is None:
            if len(self._transfers) >= self._max_transfers:
                del self._transfers[next(iter(self._transfers))]
            transfer = self._transfers[identity] = _Transfer(count, size)
        elif (transfer.count, transfer.size) != (count, size):
            self.drop(identity)
            raise _malformed("count or size is not that of the transfer's earlier frames")
        held = transfer.pieces.get(index)
        if held is not None:
            if held != data:
                self.drop(identity)
                raise _malformed(f"frame {index} came before with other bytes")
            return None
        if transfer.received + len(data) > size:
            self.drop(identity)
            raise _malformed(f"the frames hold more than the {size} bytes they announce")
        transfer.pieces[index] = data
        transfer.received += len(data)
        if len(transfer.pieces) < count:
            return None
        del self._transfers[identity]
        message = b"".join(transfer.pieces[place] for place in range(count))
        if len(message) != size or transfer_of(message) != identity:
            raise _malformed("the frames together are not the message that they announce")
        return message

    def pending(self) -> list[bytes]:
        """The identities of incomplete transfers, the oldest first."""
        return list(self._transfers)

    def missing(self, transfer: bytes) -> list[int]:
        """The indexes of the frames that are still to come; KeyError if no such transfer is pending."""
        held = self._transfers[transfer]
        return [index for index in range(held.count) if index not in held.pieces]

    def drop(self, transfer: bytes) -> None:
        """Forgets an incomplete transfer, if it is there."""
        self._transfers.pop(transfer, None)

    def _read(self, frame: bytes) -> tuple[bytes, int, int, int, bytes]:
        match cbor.decode(frame, max_depth=1, max_items=6):
            case [bytes() as transfer, int() as index, int() as count, int() as size, bytes() as data] if (
                bool not in (type(index), type(count), type(size))
            ):
                pass
            case _:
                raise _malformed("not an array of transfer, index, count, size and data")
        if size > self._max_size:
            raise WireError(
                reasons.TOO_LARGE, f"a message of {size} bytes, at most {self._max_size} are taken"
            )
        if len(transfer) != 16 or not 0 <= index < count <= min(MAX_COUNT, max(1, size)):
            raise _malformed(f"impossible frame {index} of {count} for {size} bytes")
        if len(data) > size or (size and not data):
            raise _malformed(f"a frame of {len(data)} bytes in a message of {size}")
        return transfer, index, count, size, data


def _malformed(what: str) -> WireError:
    return WireError(reasons.MALFORMED, f"not a chunk: {what}")
