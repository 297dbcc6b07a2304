"""Bytes up and down a device until 0.80 on people whom no device saw: five chains against plain FedAvg."""

from __future__ import annotations

import math
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context

from marram.wire.messages import Steps
from marram_cloud.strategies.fedavg import FedAvg

from benchmarks.federation import Setting
from benchmarks.federation import run as federation
from benchmarks.report import Figure, Result, at_least
from benchmarks.traffic import traffic

_TARGET, _MOST_ROUNDS, _SEEDS = 0.80, 80, (0, 1, 2)

PLAIN = Setting(
    "float32, 1 epoch: plain FedAvg", "float32", "float32", Steps(1, 16, 0.05), FedAvg(rate=1.0, momentum=0.0)
)
_STEPS, _RULE = Steps(5, 16, 0.05), FedAvg(rate=1.0, momentum=0.5)
_UPDATE = "rotate(512)|quantise(2,512)"
CHAINS = (
    Setting("1 bit", "feedback|rotate(512)|quantise(1,512)", _UPDATE, _STEPS, _RULE),
    Setting("2 bits", "feedback|rotate(512)|quantise(2,512)", _UPDATE, _STEPS, _RULE),
    Setting("4 bits", "feedback|rotate(512)|quantise(4,512)", _UPDATE, _STEPS, _RULE),
    Setting("top 10 % of 8 bits", "feedback|topk(0.1)|quantise(8)", _UPDATE, _STEPS, _RULE),
    Setting("float32", "float32", _UPDATE, _STEPS, _RULE),
)


@dataclass(frozen=True)
class Cost:
    """Of one setting. rounds: of each seed until the target, infinite where it did not come.

    up, down: bytes a device, medians over the seeds.
    """

    setting: Setting
    rounds: tuple[float, ...]
    up: float
    down: float


def measure() -> Result:
    settings = (PLAIN, *CHAINS)
    work = [(setting, seed) for setting in settings for seed in _SEEDS]
    # Spawned, not forked: a benchmark that ran before may have left threads here.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        rounds = list(pool.map(rounds_to_target, *zip(*work, strict=True)))
    per = len(_SEEDS)
    costs = [
        cost(setting, tuple(rounds[number * per : (number + 1) * per]))
        for number, setting in enumerate(settings)
    ]
    plain, best = costs[0], min(costs[1:], key=lambda one: one.up)
    return Result(
        "Bytes until 0.80",
        "python -m benchmarks learning",
        f"Eight devices, one a person of the shoulder recordings, until {_TARGET:.2f} on the two people that "
        f"no device sees; {per} seeds of the initial parameters and the shuffling; medians. Every chain but "
        f"plain FedAvg: {_STEPS.epochs} local epochs, step size {_STEPS.learning_rate:g}, server momentum "
        f"{_RULE.momentum:g}, updates by `{_UPDATE}`. Bytes of a device, of sealed messages with topics and "
        "frames; down are offers, updates and receipts.",
        (
            *(Figure(f"{one.setting.name}: `{one.setting.chain}`", _text(one)) for one in costs),
            at_least(f"upload of plain FedAvg / of {best.setting.name}", plain.up / best.up, 40),
            at_least(f"download of plain FedAvg / of {best.setting.name}", plain.down / best.down, 4),
        ),
    )


def rounds_to_target(setting: Setting, seed: int) -> float:
    """The first round that reaches the target; infinite when none of the first 80 does."""
    for end in islice(federation(setting, seed), _MOST_ROUNDS):
        if end.strangers >= _TARGET:
            return end.number
    return math.inf


def cost(setting: Setting, rounds: tuple[float, ...]) -> Cost:
    """What the rounds of each seed come to in bytes."""
    median = statistics.median(rounds)
    if math.isinf(median):
        return Cost(setting, rounds, math.inf, math.inf)
    # Bytes rise with the rounds, so those of the median seed are the median of the bytes.
    up, down = traffic(setting, _MOST_ROUNDS).until(int(median))
    return Cost(setting, rounds, up, down)


def _text(one: Cost) -> str:
    listed = ", ".join("none" if math.isinf(rounds) else f"{rounds:.0f}" for rounds in one.rounds)
    return f"{one.up / 1000:.1f} kB up, {one.down / 1000:.1f} kB down; rounds {listed}"
