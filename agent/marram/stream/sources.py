"""Which sensor channel feeds which channel of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from marram.errors import ConfigError
from marram.stream.config import ChannelConfig, StreamConfig


@dataclass(frozen=True, slots=True)
class Source:
    """One channel of the model: its name and row, the row in its sensor's samples, its configuration."""

    channel: str
    row: int
    sensor_row: int
    config: ChannelConfig


def resolve(
    channels: Sequence[str], sensors: Mapping[str, Sequence[str]], config: StreamConfig
) -> dict[str, list[Source]]:
    """The sources by sensor, for the sensors that feed the model.

    channels: the model's, in order. sensors: name to its channels. Raises ConfigError that names every
    channel without a source, and what the sensors offer.
    """
    problems = [_stranger(name, channels) for name in config.channels if name not in channels]
    sources: dict[str, list[Source]] = {}
    for row, channel in enumerate(channels):
        settings = config.channels.get(channel, ChannelConfig())
        offers = _offers(channel, settings.source, sensors)
        if len(offers) == 1:
            sensor, sensor_row = offers[0]
            sources.setdefault(sensor, []).append(Source(channel, row, sensor_row, settings))
        else:
            problems.append(_unclear(channel, settings.source, [sensor for sensor, _ in offers]))
    if problems:
        offered = ", ".join(f"{name}.{channel}" for name, offer in sensors.items() for channel in offer)
        raise ConfigError("\n".join([*problems, f"the sensors offer: {offered or 'no channel'}"]))
    return sources


def _offers(channel: str, source: str | None, sensors: Mapping[str, Sequence[str]]) -> list[tuple[str, int]]:
    return [
        (sensor, row)
        for sensor, offered in sensors.items()
        for row, name in enumerate(offered)
        if (f"{sensor}.{name}" == source if source is not None else name == channel)
    ]


def _unclear(channel: str, source: str | None, offers: list[str]) -> str:
    if source is not None:
        return f"stream.channels.{channel}.source: there is no sensor channel {source}"
    if offers:
        choice = " or ".join(f"{sensor}.{channel}" for sensor in offers)
        return f"the channel {channel} has several sources: set stream.channels.{channel}.source to {choice}"
    return f"the channel {channel} has no source: set stream.channels.{channel}.source"


def _stranger(name: str, channels: Sequence[str]) -> str:
    close = get_close_matches(name, channels, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"stream.channels.{name}: the model has no such channel, it has {', '.join(channels)}{hint}"
