"""What the sensors of a site would say, as JSON lines: an imagined press, junction, ward, till, cold cabinet.

    python3 examples/sites/simulate.py press-line --seconds 600
    python3 examples/sites/simulate.py press-line --seconds 60 --fault | marram run -c FILE

Each line has the time ``t`` (s) and the site's channels. ``--fault``: something is wrong from the begin on.
Nothing is random but by ``--seed``.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Callable, Iterator

Row = dict[str, float]
BEGIN = 1_767_225_600  # 2026-01-01
_DAY = 86400.0


def press_line(t: float, fault: bool, chance: random.Random) -> Row:
    """A stroke every 1.25 s, felt on three axes, in m/s^2; at fault a bearing rattles at 31 Hz."""
    phase = (t % 1.25) / 1.25
    blow = 14 * math.exp(-60 * phase) * math.cos(2 * math.pi * 22 * t)
    hum = 0.8 * math.sin(2 * math.pi * 7 * t)
    rattle = 3.5 * math.sin(2 * math.pi * 31 * t) if fault else 0.0
    return {
        "ax": blow + hum + chance.gauss(0, 0.25),
        "ay": 0.4 * blow + rattle + chance.gauss(0, 0.25),
        "az": 9.81 + 0.6 * blow + 0.7 * rattle + chance.gauss(0, 0.25),
    }


def traffic_junction(t: float, fault: bool, chance: random.Random) -> Row:
    """Vehicles counted on four arms in a cycle of the signals, 2 min; at fault the eastern arm is blocked."""
    rush = 1 + 0.8 * math.sin(2 * math.pi * (t % _DAY) / _DAY)
    flow = {"north": 34 * rush, "south": 31 * rush, "east": 22 * rush, "west": 25 * rush}
    if fault:
        flow["east"] = 0.0
        flow["north"] *= 1.6
    return {arm: float(_poisson(mean, chance)) for arm, mean in flow.items()}


def ward(t: float, fault: bool, chance: random.Random) -> Row:
    """Heart rate, breaths (1/min) and movement (0 to 1) in a bed; at fault the heart races at rest."""
    slow = math.sin(2 * math.pi * t / 300)
    movement = min(1.0, max(0.0, 0.1 + 0.08 * slow + chance.gauss(0, 0.03)))
    heart = 68 + 5 * slow + 30 * movement + chance.gauss(0, 1.2)
    return {
        "heart_rate": heart + (48 if fault else 0.0),
        "breaths": 15 + 1.5 * slow + chance.gauss(0, 0.5) + (9 if fault else 0.0),
        "movement": movement,
    }


def till(t: float, fault: bool, chance: random.Random) -> Row:
    """Transactions and voided ones a minute, and their amount; at fault much is voided."""
    busy = 4 + 2.5 * math.sin(2 * math.pi * (t % _DAY) / _DAY)
    count = _poisson(busy, chance)
    voided = _poisson(3.0 if fault else 0.1, chance)
    amount = sum(chance.lognormvariate(2.8, 0.5) for _ in range(count))
    return {"transactions": float(count), "voided": float(voided), "amount": amount}


def cold_cabinets(t: float, fault: bool, chance: random.Random) -> Row:
    """Air in three cabinets, degC, the compressor's current, A; at fault the second one's door stays open."""
    cycle = math.sin(2 * math.pi * t / 1200)
    warm = 6.5 if fault else 0.0
    return {
        "cabinet_1": 3 + 0.7 * cycle + chance.gauss(0, 0.1),
        "cabinet_2": 4 + 0.7 * cycle + warm + chance.gauss(0, 0.1),
        "freezer": -19 + 1.0 * cycle + chance.gauss(0, 0.15),
        "compressor": (4.2 if cycle > 0 or fault else 0.4) + chance.gauss(0, 0.05),
    }


def _poisson(mean: float, chance: random.Random) -> int:
    """Knuth's way; means are small here."""
    limit, count, product = math.exp(-mean), 0, chance.random()
    while product > limit:
        count, product = count + 1, product * chance.random()
    return count


SITES: dict[str, tuple[float, Callable[[float, bool, random.Random], Row]]] = {
    "press-line": (200.0, press_line),
    "traffic-junction": (1 / 120, traffic_junction),
    "ward": (1.0, ward),
    "till": (1 / 60, till),
    "cold-cabinets": (0.1, cold_cabinets),
}
"""Readings a second, and the reading of a moment."""


def rows(
    site: str, seconds: float, *, fault: bool = False, seed: int = 1, begin: float = BEGIN
) -> Iterator[Row]:
    """Readings of so many seconds, each with its time ``t``."""
    rate, reading = SITES[site]
    chance = random.Random(seed)
    for index in range(int(seconds * rate)):
        moment = begin + index / rate
        yield {"t": moment, **reading(moment, fault, chance)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", choices=SITES)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--fault", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        for row in rows(options.site, options.seconds, fault=options.fault, seed=options.seed):
            print(json.dumps({name: round(value, 4) for name, value in row.items()}))
    except BrokenPipeError:
        sys.stderr.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
