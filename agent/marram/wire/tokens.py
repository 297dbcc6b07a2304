"""Enrolment tokens: what an operator hands to a device so that it gets its first certificate.

``mrm1_<id>_<secret>_<authority>``: id, 16 hex digits, names the token in lists and logs; secret, 32 hex
digits (128 random bits); authority, the first 32 hex digits of the sha256 of the fleet authority's
certificate in DER. By the last part a device knows its fleet's authority before it trusts anybody: it may
fetch the certificate over a connection that it cannot verify yet, and compare. As a password of HTTP Basic
the token is sent whole.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

_FORM = re.compile(r"mrm1_([0-9a-f]{16})_([0-9a-f]{32})_([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class Token:
    """A token in parts; ``str`` gives the printed form, ``repr`` leaves the secret out."""

    id: str
    secret: str = field(repr=False)
    authority: str

    @staticmethod
    def new(authority: bytes) -> Token:
        """A random token. authority: the authority's certificate in DER."""
        return Token(secrets.token_hex(8), secrets.token_hex(16), fingerprint(authority))

    @staticmethod
    def parse(text: str) -> Token:
        """The token in its printed form. Raises ValueError, which does not repeat the text."""
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise ValueError(
                "this is no enrolment token: expected mrm1_<16 hex digits>_<32>_<32>, "
                "as `marram-cloud enrolment token` printed it"
            )
        return Token(*found.groups())

    def __str__(self) -> str:
        return f"mrm1_{self.id}_{self.secret}_{self.authority}"

    def names(self, authority: bytes) -> bool:
        """Whether this certificate (DER) is the authority that the token was made for."""
        return hmac.compare_digest(self.authority, fingerprint(authority))


def fingerprint(authority: bytes) -> str:
    """How a token names an authority: 32 hex digits of the sha256 of its certificate in DER."""
    return hashlib.sha256(authority).hexdigest()[:32]
