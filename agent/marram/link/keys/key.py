"""Where a device's private key is: a file, one of systemd's credentials, or a token behind OpenSSL.

A source is a text: ``file`` (``device.key`` in the identity folder), ``credential:NAME`` or a PKCS#11 URI,
``pkcs11:...`` (RFC 7512).
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from marram.errors import IdentityError

if TYPE_CHECKING:  # a configuration is read without cryptography
    from marram.wire.envelope import PrivateKey

SOURCE = r"^(file|credential:[A-Za-z0-9._-]+|pkcs11:.+)$(?!\n)"
FILE = "file"


class DeviceKey(Protocol):
    """A private key, wherever it is.

    private: signs; of a key in hardware only the signing goes there. replaceable: whether a renewal may put a
    new key in its place.
    """

    @property
    def private(self) -> PrivateKey: ...

    @property
    def replaceable(self) -> bool: ...

    def use(self, context: ssl.SSLContext, certificate: Path) -> None:
        """Have TLS connections of ``context`` prove themselves by this key and its certificate (PEM).

        Raises IdentityError when they cannot be used together.
        """
        ...


def open_key(source: str, path: Path) -> DeviceKey:
    """The key of a source. path: where the key of the source ``file`` is. Raises IdentityError."""
    if not re.match(SOURCE, source):
        raise IdentityError(
            f"{source!r} is not a place of a key: expected file, credential:NAME or pkcs11:..."
        )
    scheme, _, name = source.partition(":")
    if scheme in (FILE, "credential"):
        from marram.link.keys import file

        return file.FileKey(path) if scheme == FILE else file.credential(name)
    from marram.link.keys import token

    return token.TokenKey(source)
