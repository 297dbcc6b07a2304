"""Times of day, as they stand in the configuration: "22:00-06:00"."""

from __future__ import annotations


def within(minute: int, hours: str) -> bool:
    """Whether a minute of the day (0 to 1439) lies in the span, which may go over midnight."""
    begin, end = (int(part[:2]) * 60 + int(part[3:]) for part in hours.split("-"))
    return begin <= minute < end if begin <= end else minute >= begin or minute < end
