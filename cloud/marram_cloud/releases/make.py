"""From a version of the parameters to a signed release in the ledger."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from marram.bundle.file import Bundle
from marram.errors import MarramError
from marram.wire.certificates import Subject
from marram.wire.envelope import KeySigner, PrivateKey
from marram.wire.messages import Release
from marram.wire.signed import Author
from marram.wire.topics import Topics
from numpy.typing import NDArray

from marram_cloud.ledger.ledger import Ledger, StoredRelease
from marram_cloud.releases import publish
from marram_cloud.releases.choose import Stretch
from marram_cloud.releases.rebuild import rebuild


class ReleaseError(MarramError):
    """A release cannot be made."""


def read_release_key(path: Path) -> KeySigner:
    """The key that signs releases, from a PEM file."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ReleaseError(f"{path}: is no private key that can be read: {error}") from error
    if not isinstance(key, PrivateKey):
        raise ReleaseError(f"{path}: is neither a P-256 nor an Ed25519 key")
    return KeySigner(key)


def make(
    ledger: Ledger,
    bundle: Bundle,
    chosen: Stretch,
    calibration: NDArray[np.float32],
    signer: KeySigner,
    topics: Topics,
    now: float,
) -> StoredRelease:
    """Mean of the chosen versions, quantised, built, signed, committed to the ledger.

    Raises ReleaseError, LedgerError.
    """
    last = ledger.latest_release()
    sequence = last.sequence + 1 if last else 1
    newest = chosen.versions[-1]
    version = f"{sequence}+r{newest}"
    metrics = {"devices": float(chosen.devices), "averaged_versions": float(len(chosen.versions))}
    if chosen.devices:
        metrics["loss_fp32_devices"] = chosen.loss
    if chosen.accuracy is not None:
        metrics["accuracy_fp32_devices"] = chosen.accuracy
    vectors = [ledger.parameters(one).astype(np.float64) for one in chosen.versions]
    parameters = np.mean(vectors, axis=0).astype(np.float32)
    content = rebuild(bundle, parameters, calibration, version, metrics)
    name = bundle.manifest.name
    digest = hashlib.sha256(content).digest()
    part_size = publish.part_size(ledger)
    message = Release(name, version, sequence, digest, len(content), part_size)
    author = Author(Subject(topics.fleet, topics.region, "aggregator", "release"), signer)
    sealed = author.seal(message, topics.release(name), sequence)
    release = StoredRelease(sequence, name, version, digest, newest, content, part_size, sealed)
    with ledger.transaction():
        ledger.add_release(release, now)
    return release
