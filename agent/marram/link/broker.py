"""Where a broker is: the one reading of its address, for configurations and for connections."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from marram.errors import LinkError

_HOST = re.compile(r"^[A-Za-z0-9._:%-]+$")


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker's host and port, and whether it speaks TLS."""

    host: str
    port: int
    tls: bool

    @staticmethod
    def parse(url: str) -> Broker:
        """Raises LinkError when the URL is not one of a broker."""
        try:
            return read_broker(url)
        except ValueError as error:
            shown = "" if "@" in url else f" {url!r}"
            words = str(error) or "should be mqtt://host:port or mqtts://host:port"
            raise LinkError(f"broker{shown}: {words}") from error


def read_broker(url: str) -> Broker:
    """``mqtt://host[:1883]`` or ``mqtts://host[:8883]``.

    Raises ValueError, without words when the URL is not in this notation.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError from None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or port == 0:
        raise ValueError
    if not _HOST.match(parts.hostname):
        raise ValueError
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError
    if parts.username is not None or parts.password is not None:
        raise ValueError("a broker address may not hold a user name or password: files and logs show it")
    tls = parts.scheme == "mqtts"
    return Broker(parts.hostname, port or (8883 if tls else 1883), tls)
