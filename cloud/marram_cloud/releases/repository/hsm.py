"""Offline keys in a hardware token behind PKCS#11, by securesystemslib's signer (extra ``hsm``).

A key is named ``hsm:<id>?label=<token>&module=<PKCS#11 library>``: id is the number of the key pair on the
token (CKA_ID), label the token's, which may be left out where there is one token, and module where
``PYKCS11LIB`` names it. The PIN comes from ``MARRAM_PIN``, else it is asked for.
"""

from __future__ import annotations

import getpass
import os
from urllib.parse import parse_qsl, urlsplit

from securesystemslib.signer import HSMSigner, Signature, Signer

from marram_cloud.releases.repository.errors import RepositoryError

SCHEME = "hsm:"


def read_hsm_key(uri: str) -> Signer:
    """The signer of a key pair (P-256) on a token. Raises RepositoryError."""
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    unknown = set(options) - {"label", "module"}
    if not parts.path.isdecimal() or unknown:
        raise RepositoryError(f"{uri}: expected hsm:<id>?label=<token>&module=<library>")
    if "module" in options:
        os.environ["PYKCS11LIB"] = options["module"]
    number, label = int(parts.path), options.get("label")
    try:
        _, public = HSMSigner.import_(number, label, _pin)
    except Exception as error:
        # No common base: a missing package, library, token or key, a wrong PIN.
        raise RepositoryError(f"{uri}: {_words(error)}") from error
    return _Token(number, public, _pin, label)


class _Token(HSMSigner):
    """What goes wrong while the token signs, as an error of ours."""

    def sign(self, payload: bytes) -> Signature:
        try:
            return super().sign(payload)
        except Exception as error:
            raise RepositoryError(f"{self.SCHEME}:{self.hsm_keyid}: {_words(error)}") from error


def _pin(secret: str) -> str:
    return os.environ.get("MARRAM_PIN") or getpass.getpass("PIN of the token: ")


def _words(error: Exception) -> str:
    name = type(error).__name__
    if name == "UnsupportedLibraryError":
        return "needs the package python-pkcs11: pip install 'marram[hsm]'"
    if name == "PinIncorrect":
        return "the PIN is wrong"
    return f"{name}: {error}" if str(error) else name
