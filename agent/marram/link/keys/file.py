"""Keys in files: ``device.key`` in the identity folder, or a credential that systemd hands to the service."""

from __future__ import annotations

import os
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from marram.errors import IdentityError
from marram.wire.envelope import PrivateKey


@dataclass(frozen=True)
class FileKey:
    """A P-256 or Ed25519 key in PEM, without a password. Raises IdentityError when it cannot be used."""

    path: Path
    replaceable: bool = True
    private: PrivateKey = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "private", _read(self.path, own=self.replaceable))

    def use(self, context: ssl.SSLContext, certificate: Path) -> None:
        """See ``DeviceKey``."""
        try:
            context.load_cert_chain(certificate, self.path)
        except (OSError, ssl.SSLError) as error:
            raise IdentityError(f"{certificate}: cannot be used for TLS: {error}") from error


def credential(name: str) -> FileKey:
    """A credential of the unit (LoadCredential= and its kin), in ``$CREDENTIALS_DIRECTORY``."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        raise IdentityError(
            f"key credential:{name}: systemd gave this process no credentials; add "
            f"LoadCredential={name}:/path/of/the.key to the unit"
        )
    return FileKey(Path(folder) / name, replaceable=False)


def generate() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(path: Path, own: bool) -> PrivateKey:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as error:
        hint = "; is it in the unit's LoadCredential=?" if not own else ""
        raise IdentityError(f"{path}: the device's key cannot be read: {error.strerror}{hint}") from error
    # systemd's own folder is closed to others; in there files may have mode 0440.
    if own and mode & 0o077:
        raise IdentityError(
            f"{path}: others than its owner may read or change this key (mode {mode:04o}); "
            f"make it safe with `chmod 600 {path}`, and enrol the device again if it may have been copied"
        )
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"{path}: is not a key in PEM without a password: {error}") from error
    if not isinstance(key, PrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and not isinstance(key.curve, ec.SECP256R1)
    ):
        raise IdentityError(f"{path}: is neither a P-256 nor an Ed25519 key")
    return key
