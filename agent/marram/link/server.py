"""Where an enrolment server is: the one reading of its address, for configurations and ``marram enrol``."""

from __future__ import annotations

from urllib.parse import urlsplit

EXPECTED = 'the address of an enrolment server such as "https://host:8443"'


def read_server(url: str) -> str:
    """``https://host[:443]``. Raises ValueError, without words when the URL is not in this notation."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError from None
    if parts.scheme != "https" or not parts.hostname or port == 0:
        raise ValueError
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError
    if parts.username is not None or parts.password is not None:
        raise ValueError("an enrolment address may not hold a user name or password: files and logs show it")
    return url
