"""A key that stays in a token: a TPM, a smart card, a secure element, SoftHSM.

By a PKCS#11 URI (RFC 7512) and OpenSSL's pkcs11 engine (Debian: libengine-pkcs11-openssl). The URI may name
the module (``module-path``, else p11-kit finds the token) and the PIN, best by a file (``pin-source``).
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Never, TypeAlias
from urllib.parse import unquote

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from marram.errors import IdentityError
from marram.link.keys import libcrypto
from marram.link.keys.libcrypto import LibraryError

Buffer: TypeAlias = bytes | bytearray | memoryview


class TokenKey:
    """See ``DeviceKey``. Raises IdentityError with what is wrong: module, token, PIN or key."""

    replaceable = False

    def __init__(self, source: str) -> None:
        # What stands behind "?" may be a PIN.
        self._shown = source.partition("?")[0]
        try:
            self._handle = _load(source)
        except LibraryError as error:
            raise IdentityError(f"key {self._shown}: {_explained(error)}") from error
        self.private = _Private(self._handle, self._shown)

    def use(self, context: ssl.SSLContext, certificate: Path) -> None:
        """See ``DeviceKey``."""
        libcrypto.use_for_tls(context, str(certificate), self._handle)


class _Private(ec.EllipticCurvePrivateKey):
    """The key as the cryptography package knows keys, so that it also signs requests for certificates."""

    def __init__(self, handle: int, shown: str) -> None:
        self._handle, self._shown = handle, shown
        self._one_at_a_time = threading.Lock()
        public = serialization.load_der_public_key(libcrypto.public_der(handle))
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            raise IdentityError(f"key {shown}: is not a P-256 key, which the fleet's devices have")
        self._public = public

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """The signature in DER."""
        algorithm = signature_algorithm.algorithm
        if isinstance(algorithm, Prehashed) or not isinstance(algorithm, hashes.SHA256):
            raise ValueError("a key in a token signs with SHA-256")
        with self._one_at_a_time:
            return libcrypto.sign_sha256(self._handle, bytes(data))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        self._stays()

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        self._stays()

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> bytes:
        self._stays()

    def __copy__(self) -> _Private:
        return self

    def __deepcopy__(self, memo: object) -> _Private:
        return self

    def _stays(self) -> Never:
        raise IdentityError(f"key {self._shown}: never leaves its token")


def _load(source: str) -> int:
    path = source.partition("?")[0]
    query = dict(part.partition("=")[::2] for part in source.partition("?")[2].split("&"))
    module, pin = unquote(query.get("module-path", "")), _pin(query)
    if module and not Path(module).is_file():
        raise IdentityError(f"{module}: the PKCS#11 module that the key's URI names is not there")
    engine = libcrypto.engine("pkcs11", module)
    if engine is None:
        raise IdentityError(
            f"key {path}: OpenSSL has no pkcs11 engine; install it: "
            "sudo apt-get install libengine-pkcs11-openssl"
        )
    return libcrypto.from_engine(engine, path, pin)


def _pin(query: Mapping[str, str]) -> str:
    """RFC 7512, section 2.4: the PIN itself, or the file that it is in."""
    if "pin-source" not in query:
        return unquote(query.get("pin-value", ""))
    file = Path(re.sub("^file:(//)?", "", unquote(query["pin-source"])))
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityError(f"{file}: the token's PIN cannot be read: {error}") from error


def _explained(error: LibraryError) -> str:
    said = error.said.lower()
    if "pin locked" in said:
        return "its token is locked after too many wrong PINs; unlock it with the token's own tool"
    if "pin incorrect" in said or "pin invalid" in said or "pin length" in said:
        return "wrong PIN; each further attempt may bring the token closer to locking itself"
    if "unable to load pkcs#11 module" in said:
        return "its PKCS#11 module cannot be loaded; is it a PKCS#11 library of this machine's kind?"
    if "not found" in said:
        return (
            "no such key: token, object or id do not fit, or the PIN is missing (pin-source=FILE); "
            "`pkcs11-tool --module MODULE --login --list-objects` shows what is there"
        )
    return str(error)
