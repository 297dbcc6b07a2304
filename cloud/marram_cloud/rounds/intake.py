"""The way of a message from a device to the coordinator: reassemble, verify, decode, judge its values.

Nothing here changes the ledger. Every refusal is a WireError with a name of ``marram.wire.reasons``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from marram.errors import WireError
from marram.wire import certificates, envelope, reasons
from marram.wire.chunks import Assembler
from marram.wire.codec.chain import Chain
from marram.wire.envelope import Sealed
from marram.wire.messages import Delta
from marram.wire.parameters import Vector

from marram_cloud.ledger.ledger import Device, Ledger

_SENDERS = 4096


@dataclass(frozen=True, slots=True)
class Verified:
    """A message whose signature, sender and topic are right; ``digest`` is the sha256 of its bytes."""

    device: Device
    sealed: Sealed
    digest: bytes
    size: int


class Reassembly:
    """Chunks of many devices, in memory that is bounded by the devices that are sending right now."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._senders: OrderedDict[str, Assembler] = OrderedDict()

    def add(self, topic: str, frame: bytes) -> bytes | None:
        """The whole message once its last chunk is there. Raises WireError(MALFORMED, TOO_LARGE)."""
        assembler = self._senders.pop(topic, None) or Assembler(self._max_size, 4)
        message = assembler.add(frame)
        if assembler.pending():
            self._senders[topic] = assembler
            while len(self._senders) > _SENDERS:
                self._senders.popitem(last=False)
        return message


def verify(ledger: Ledger, fleet: str, topic: str, sender: str, message: bytes, max_size: int) -> Verified:
    """Who says it, and is it so. ``sender``: the device below whose topic it came."""
    sealed = envelope.parse(message, max_size)
    header = sealed.header
    if header.fleet != fleet:
        raise WireError(reasons.WRONG_FLEET, f"signed for fleet {header.fleet!r}")
    device = ledger.device_by_key(header.key_id)
    if device is None:
        raise WireError(reasons.UNKNOWN_DEVICE, f"no enrolled device has the key {header.key_id.hex()[:16]}")
    if device.revoked:
        raise WireError(reasons.REVOKED, f"{device.name} was revoked")
    if device.name != sender or header.sender != sender:
        raise WireError(
            reasons.WRONG_SENDER, f"signed by {device.name}, sent as {header.sender}, under {sender}"
        )
    envelope.verify(sealed, topic, certificates.public_key(device.certificate))
    return Verified(device, sealed, envelope.digest(message), len(message))


def check_metrics(delta: Delta) -> None:
    """Raise WireError(BAD_VALUES) unless what the device measured can be averaged with others."""
    for name, measured in (("before", delta.before), ("after", delta.after)):
        accuracy = measured.accuracy
        if not math.isfinite(measured.loss) or not (accuracy is None or 0 <= accuracy <= 1):
            raise WireError(
                reasons.BAD_VALUES, f"{name}: loss {measured.loss}, accuracy {accuracy}: no measurement"
            )


def decode_delta(chain: str, payload: bytes, size: int, seed: int, max_norm: float) -> Vector:
    """The delta, float32 (size,), finite and not larger than ``max_norm``. Raises WireError(BAD_VALUES)."""
    vector = Chain.parse(chain).decode(payload, size, seed)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if norm > max_norm:
        raise WireError(reasons.BAD_VALUES, f"the delta's norm is {norm:.3g}, at most {max_norm:g} is taken")
    return vector
