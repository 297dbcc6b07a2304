"""Samples to windows: values a second through ``marram.stream``, one process, one thread."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
from marram.stream.blocks import Samples
from marram.stream.config import ChannelConfig, StreamConfig
from marram.stream.stream import Stream

from benchmarks.report import Figure, Result

_RATE = 25_600.0
_CHANNELS = ("ax", "ay", "az")
_SECONDS = 40
_RUNS = 3


@dataclass(frozen=True)
class Signal:
    """What is pushed. block: samples at a time. jitter: of times, in samples. holes: the share missing."""

    name: str
    config: StreamConfig
    block: int = 2560
    jitter: float = 0.0
    holes: float = 0.0


def measure() -> Result:
    limits = {name: ChannelConfig(min=-16, max=16, scale=2.0, stuck_after=1.0) for name in _CHANNELS}
    signals = (
        Signal("on the grid, blocks of 2560", StreamConfig()),
        Signal("on the grid, blocks of 256", StreamConfig(), block=256),
        Signal("with limits and the stuck rule", StreamConfig(channels=limits)),
        Signal("30 % jitter: interpolated", StreamConfig(), jitter=0.3),
        Signal("1 % missing: repaired", StreamConfig(), holes=0.01),
    )
    return Result(
        "Samples to windows",
        "python -m benchmarks stream_rate",
        f"{_SECONDS} s of {len(_CHANNELS)} channels at {_RATE:.0f} Hz pushed through the stream as fast as "
        f"it takes them, windows of 2560 samples with a stride of 1280. Medians of {_RUNS} runs.",
        [Figure(signal.name, _text(signal)) for signal in signals],
    )


def _text(signal: Signal) -> str:
    blocks = _blocks(signal)
    seconds = statistics.median(_seconds(signal, blocks) for _ in range(_RUNS))
    values = len(_CHANNELS) * _RATE * _SECONDS
    return f"{values / seconds / 1e6:.1f} M values/s, {_SECONDS / seconds:.0f} x real time"


def _blocks(signal: Signal) -> list[Samples]:
    random = np.random.default_rng(7)
    count = int(_RATE * _SECONDS)
    jitter = random.uniform(-signal.jitter, signal.jitter, count)
    when = 1.76e9 + (np.arange(count) + jitter) / _RATE
    values = random.standard_normal((len(_CHANNELS), count)).astype(np.float32)
    values[:, random.random(count) < signal.holes] = np.nan
    parts = [slice(at, at + signal.block) for at in range(0, count, signal.block)]
    return [Samples(when[part], values[:, part]) for part in parts]


def _seconds(signal: Signal, blocks: list[Samples]) -> float:
    stream = Stream(_CHANNELS, _RATE, 2560, 1280, (), {"bearing": _CHANNELS}, signal.config)
    began = time.perf_counter()
    windows = sum(len(stream.push("bearing", samples)) for samples in blocks)
    seconds = time.perf_counter() - began
    # The last windows are held back for what may still come.
    expected = _RATE * _SECONDS / 1280
    assert windows > 0.95 * expected, f"{signal.name}: {windows} windows of {expected:.0f}"
    return seconds
