"""Folders of signing keys: one PEM file (PKCS#8, P-256) a key, named after what it is for (``root-1.pem``).

Which role a key may sign for is not said here but in the metadata that names its public half.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from marram.wire.envelope import PrivateKey
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from marram_cloud.enrolment import authority
from marram_cloud.releases.repository.errors import RepositoryError

_NAME = "marram_name"


def generate(folder: Path, purpose: str, count: int) -> list[CryptoSigner]:
    """New keys in ``folder``: ``<purpose>-<number>.pem`` with the next free numbers, for their owner only."""
    made: list[CryptoSigner] = []
    number = 1
    while len(made) < count:
        path = folder / f"{purpose}-{number}.pem"
        if not path.exists():
            key = authority.new_key()
            authority.write_private(path, authority.private_pem(key))
            made.append(_signer(key, path.stem))
        number += 1
    return made


def read_key(path: Path) -> CryptoSigner:
    """The private key in a PEM file. Raises RepositoryError."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RepositoryError(f"{path}: is no private key in PEM without a password: {error}") from error
    if not isinstance(key, PrivateKey):
        raise RepositoryError(f"{path}: is neither a P-256 nor an Ed25519 key")
    return _signer(key, path.stem)


def read_public_key(path: Path) -> Key:
    """The public key in a PEM file, of somebody who keeps the private one. Raises RepositoryError."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RepositoryError(f"{path}: is no public key in PEM: {error}") from error
    if not isinstance(key, EllipticCurvePublicKey | Ed25519PublicKey):
        raise RepositoryError(f"{path}: is neither a P-256 nor an Ed25519 key")
    return _named(SSlibKey.from_crypto(key), path.stem)


def read_folder(folder: Path, purpose: str = "") -> list[CryptoSigner]:
    """All keys of a folder whose names begin with ``purpose``. Raises RepositoryError: there are none."""
    found = sorted(folder.glob(f"{purpose}*.pem"))
    if not found:
        raise RepositoryError(f"{folder}: holds no keys ({purpose}*.pem); is the medium with them mounted?")
    return [read_key(path) for path in found]


def name(key: Key) -> str:
    """What people call a key: its file's name where it was made, else the beginning of its id."""
    return str(key.unrecognized_fields.get(_NAME, key.keyid[:12]))


def names(keys: Sequence[Key]) -> str:
    """For messages."""
    return ", ".join(sorted(name(key) for key in keys))


def _signer(key: PrivateKey, called: str) -> CryptoSigner:
    return CryptoSigner(key, _named(SSlibKey.from_crypto(key.public_key()), called))


def _named(key: SSlibKey, called: str) -> SSlibKey:
    key.unrecognized_fields[_NAME] = called
    return key
