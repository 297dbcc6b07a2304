"""How long each role's metadata is good for, and when what is signed online is signed again."""

from __future__ import annotations

from datetime import datetime, timedelta

from tuf.api.metadata import Signed

from marram_cloud.releases.repository.layout import ROLLOUT, SNAPSHOT, TIMESTAMP

_ONLINE = {SNAPSHOT: timedelta(days=7), ROLLOUT: timedelta(days=7), TIMESTAMP: timedelta(days=1)}
_OFFLINE = timedelta(days=365)


def lifetime(role: str) -> timedelta:
    return _ONLINE.get(role, _OFFLINE)


def due(role: str, signed: Signed, now: datetime) -> bool:
    """Whether half of its life is over: early enough for a device that is seldom online."""
    return now >= signed.expires - lifetime(role) / 2
