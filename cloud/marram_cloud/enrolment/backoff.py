"""Slows down whoever guesses: after some failures an address waits, twice as long after each more."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

FREE, FIRST, LAST = 5, 1.0, 600.0
_FORGET, _ADDRESSES = 3600.0, 10_000


class Backoff:
    """Failures by address, in bounded memory; the caller gives the time. IPv6 counts by /64."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str, now: float) -> float:
        """Seconds that this address has to wait before its next try; 0 if it may try now."""
        count, last = self._failures.get(_network(address), (0, now))
        if count < FREE:
            return 0.0
        return max(0.0, last + min(FIRST * 2.0 ** min(count - FREE, 30), LAST) - now)

    def failed(self, address: str, now: float) -> None:
        network = _network(address)
        count, last = self._failures.pop(network, (0, now))
        self._failures[network] = (1 if now - last > _FORGET else count + 1, now)
        if len(self._failures) > _ADDRESSES:
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        self._failures.pop(_network(address), None)


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
