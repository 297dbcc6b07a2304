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

_SENDERS, _HELD = 4096, 256 << 20


@dataclass(frozen=True, slots=True)
class Verified:
    """A message whose signature, sender and topic are right; ``digest`` is the sha256 of its bytes."""

    device: Device
    sealed: Sealed
    digest: bytes
    size: int


class Reassembly:
    """Chunks of many devices, in bounded memory: who has waited longest for a next chunk begins again.

    max_size: bytes of a message. max_held: bytes of all unfinished messages.
    """

    def __init__(self, max_size: int, max_held: int = _HELD) -> None:
        self._max_size, self._max_held = max_size, max_held
        self._senders: OrderedDict[str, tuple[Assembler, int]] = OrderedDict()
        self._held = 0

    def add(self, topic: str, frame: bytes) -> bytes | None:
        """The whole message once its last chunk is there. Raises WireError(MALFORMED, TOO_LARGE)."""
        fresh = Assembler(self._max_size, 4), 0
        assembler, held = self._senders.pop(topic) if topic in self._senders else fresh
        self._held -= held
        try:
            return assembler.add(frame)
        finally:
            # A frame that is refused does not cost the sender what came before it.
            if assembler.pending():
                self._senders[topic] = assembler, held + len(frame)
                self._held += held + len(frame)
            while len(self._senders) > _SENDERS or self._held > self._max_held:
                _, (_, dropped) = self._senders.popitem(last=False)
                self._held -= dropped


def verify(
    ledger: Ledger, fleet: str, topic: str, sender: str, message: bytes, max_size: int, now: float
) -> Verified:
    """Who says it, and is it so. ``sender``: the device below whose topic it came."""
    sealed = envelope.parse(message, max_size)
    header = sealed.header
    if header.fleet != fleet:
        raise WireError(reasons.WRONG_FLEET, f"signed for fleet {header.fleet!r}")
    device = ledger.device_by_key(header.key_id)
    if device is None:
        raise WireError(reasons.UNKNOWN_DEVICE, f"no enrolled device has the key {header.key_id.hex()[:16]}")
    if device.revoked:
        raise WireError(reasons.REVOKED, f"the certificate of {device.name} was revoked")
    certificates.check_valid(device.certificate, now)
    if device.name != sender or header.sender != sender:
        raise WireError(
            reasons.WRONG_SENDER, f"signed by {device.name}, sent as {header.sender}, under {sender}"
        )
    envelope.verify(sealed, topic, certificates.public_key(device.certificate))
    return Verified(device, sealed, envelope.digest(message), len(message))


def check_claims(delta: Delta, max_windows: int) -> None:
    """Raise WireError(BAD_VALUES) unless what the device says of itself can be averaged with others."""
    claims = (("samples", delta.samples), ("before", delta.before.count), ("after", delta.after.count))
    for name, windows in claims:
        if windows > max_windows:
            raise WireError(
                reasons.BAD_VALUES, f"{name}: {windows} windows, at most {max_windows} are believed"
            )
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
