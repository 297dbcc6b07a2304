"""A staged roll-out over a thousand devices, good and bad. A failing seed is printed; replay it with
``python -m tests.simulation.test_rollout SEED``."""

from __future__ import annotations

import os
import sys

import pytest
from marram.wire.rollout import place

from tests.simulation.rollout import NEW, OLD, World

SEEDS = max(1, int(os.environ.get("SEEDS", "200")) // 100)


def first_stage(world: World) -> set[str]:
    return {name for name in world.devices if place(NEW.sha256[:16], name) < 0.05}


def agrees(world: World, seed: int) -> None:
    """No report that was lost, doubled or overtaken left a device in a later stage than it was ever in."""
    for name, heard in world.reports.heard().items():
        device = world.devices[name]
        row = world.reports.database.execute(
            "SELECT counter FROM reports WHERE device = ?", (name,)
        ).fetchone()
        assert row[0] <= device.counter, f"seed {seed}: {name}"
        if row[0] == device.counter:
            assert heard.report.stage == device.stage, f"seed {seed}: {name}"
    for name, outcome in world.reports.outcomes(NEW.path).items():
        if outcome.stage == "rolled_back":
            assert NEW.sha256 in world.devices[name].refused, f"seed {seed}: {name}"
        if outcome.stage == "committed":
            assert world.devices[name].running == NEW.sha256, f"seed {seed}: {name}"


def bad(seed: int, failing: float) -> None:
    world = World(seed, failing)
    world.run(24)
    ran = world.ever_ran(NEW)
    assert world.document.plan(NEW.path).paused, f"seed {seed}"
    assert ran <= first_stage(world), f"seed {seed}: {len(ran - first_stage(world))} beyond the first stage"
    assert len(ran) < 80, f"seed {seed}"
    kept = world.runs(NEW)
    assert world.runs(OLD) == set(world.devices) - kept, f"seed {seed}"
    assert all(world.devices[name].ran for name in kept), f"seed {seed}"
    agrees(world, seed)


def good(seed: int) -> None:
    world = World(seed, failing=0.01)
    world.run(48)
    here = {name for name, device in world.devices.items() if not device.gone}
    refused = {name for name, device in world.devices.items() if NEW.sha256 in device.refused}
    assert not world.document.plan(NEW.path).paused, f"seed {seed}"
    assert world.runs(NEW) == here - refused, f"seed {seed}: {len(here - refused - world.runs(NEW))} do not"
    assert len(refused) < 40, f"seed {seed}"
    agrees(world, seed)


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("failing", [1.0, 0.5])
def test_a_bad_release_stops_at_the_first_stage(seed: int, failing: float) -> None:
    bad(seed, failing)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_good_release_reaches_every_device_that_comes_online(seed: int) -> None:
    good(seed)


if __name__ == "__main__":
    for one in map(int, sys.argv[1:]):
        bad(one, 1.0)
        bad(one, 0.5)
        good(one)
        print(f"seed {one}: held")
