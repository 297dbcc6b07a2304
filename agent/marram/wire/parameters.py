"""The training track's parameters: how a version is named, and how the next one is made from bytes.

Device and aggregator both call ``advance``, so that all of a fleet holds bit-identical parameters.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from marram.wire.codec.chain import Chain

Vector = NDArray[np.float32]


def parameters_digest(vector: Vector) -> bytes:
    """sha256 of the little-endian float32 bytes: what an offer calls its base."""
    return hashlib.sha256(vector.astype("<f4").tobytes()).digest()


def advance(vector: Vector, kind: str, chain: str, payload: bytes, seed: int) -> Vector:
    """One artefact applied to float32 (P,): a snapshot replaces it, an update is added in float32.

    Raises WireError when the payload is not one of this chain and length.
    """
    decoded = Chain.parse(chain).decode(payload, vector.shape[0], seed)
    return decoded if kind == "snapshot" else (vector + decoded).astype(np.float32)
