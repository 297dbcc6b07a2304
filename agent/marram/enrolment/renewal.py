"""Renews the device's certificate while the daemon runs, at two thirds of its lifetime (RFC 7030, 4.2.2).

A key in a file is replaced too: whoever copied the old one has nothing once its certificate ends. A key in a
token or a credential stays. Until everything new is on disk the device goes on with what it has; an attempt
that fails is made again, some twenty times in the time that is left.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from marram.enrolment import est
from marram.enrolment.enrol import check_issued
from marram.errors import MarramError
from marram.link import identity as identities
from marram.link.identity import KEY, Identity
from marram.link.keys import file
from marram.loop import Loop

log = logging.getLogger(__name__)

_PART = 2 / 3
_SPREAD = 0.05
_RETRY_FIRST, _RETRY_LAST = 5.0, 6 * 3600.0
_EXPIRED_LOOK = 3600.0

Uniform = Callable[[float, float], float]


def first_attempt(start: float, end: float, now: float, uniform: Uniform) -> float:
    """When to renew a certificate of this lifetime (all Unix s): soon when that has passed.

    A fleet that was made, or comes back, on one day does not ask for its certificates in one minute.
    """
    due = start + (end - start) * (_PART + uniform(0.0, _SPREAD))
    return due if due > now else now + uniform(0.0, min(600.0, max(end - now, 0.0) / 20))


def next_attempt(end: float, now: float, uniform: Uniform) -> float:
    """When to try again, after an attempt failed at ``now``. end: of the certificate."""
    pause = min(max((end - now) / 20, _RETRY_FIRST), _RETRY_LAST)
    return now + pause * uniform(0.5, 1.0)


@dataclass
class Renewal:
    """A member of the daemon's loop. url: of the enrolment server; without one nothing is renewed.

    renewed: called with the new identity once it is on disk. now: the time at the start, Unix s. error: why
    the last attempt failed; empty after one that did not.
    """

    identity: Identity
    url: str
    loop: Loop
    renewed: Callable[[Identity], None]
    now: float
    uniform: Uniform = random.uniform
    error: str = ""
    wake_at: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.url:
            begun, end = self.identity.floor, self.identity.expires
            self.wake_at = first_attempt(begun, end, self.now, self.uniform)

    def wake(self, now: float) -> None:
        identity = self.identity
        if now >= identity.expires:
            # Nobody gives a new certificate for one that has ended; but the clock may be what is wrong.
            self.wake_at = now + _EXPIRED_LOOK
            self._failed(expired(identity))
            return
        self.wake_at = None
        threading.Thread(target=self._ask, args=(identity,), name="renewal", daemon=True).start()

    def _ask(self, identity: Identity) -> None:
        """In a thread of its own, as the network may take its time."""
        try:
            key = file.generate() if identity.key.replaceable else None
            name = identity.subject.name
            request = est.request(name, key or identity.key.private, identity.certificate)
            certificate = est.Client(self.url, identity.tls()).renew(request)
            check_issued(certificate, identity.authority, name)
        except Exception as error:
            if not isinstance(error, MarramError):
                log.exception("the renewal failed")
            text = str(error)
            self.loop.post(lambda now: self._retry(text, now))
        else:
            self.loop.post(lambda now: self._take(certificate, key, now))

    def _take(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None, now: float
    ) -> None:
        try:
            identities.renew(self.identity, certificate, key)
        except MarramError as error:
            self._retry(str(error), now)
            return
        kept = self.identity.key if key is None else file.FileKey(self.identity.folder / KEY)
        self.identity = replace(self.identity, certificate=certificate, key=kept)
        self.error = ""
        # Counted from now on, as an authority may date its certificates back.
        self.wake_at = first_attempt(max(now, self.identity.floor), self.identity.expires, now, self.uniform)
        log.info("the certificate was renewed and is valid until %s", _day(self.identity.expires))
        self.renewed(self.identity)

    def _retry(self, reason: str, now: float) -> None:
        self.wake_at = next_attempt(self.identity.expires, now, self.uniform)
        self._failed(reason)

    def _failed(self, reason: str) -> None:
        if reason != self.error:
            log.warning("the certificate was not renewed: %s", reason)
        self.error = reason


def expired(identity: Identity) -> str:
    """What to do about a certificate that has ended."""
    return (
        f"the certificate of {identity.subject.name} ended on {_day(identity.expires)}; if this device's "
        f"clock is right, move {identity.folder} away and run `marram enrol` with a new token"
    )


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
