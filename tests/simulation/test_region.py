"""The whole region under many seeds. A failing seed is printed; replay it with
``python -m tests.simulation.test_region SEED``."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from marram_cloud.ledger.ledger import Ledger

from tests.simulation.world import SIZE, World, receipts, replayed_sum, told

SEEDS = int(os.environ.get("SEEDS", "200"))
BLOCK = 10


def check(seed: int) -> World:
    world = World(seed)
    world.run()
    ledger = Ledger(world.ledger_disk)
    assert world.settled(), f"seed {seed}: not settled in simulated time"

    # every accepted delta is counted exactly once, in its own round
    closed = [done for done in ledger.rounds() if done.closed is not None]
    for done in closed:
        accepted = ledger.delta_devices(done.number)
        assert len({device for device, _ in accepted}) == len(accepted), f"seed {seed}"
        assert done.counted == len(accepted) >= world.minimum, f"seed {seed}: round {done.number}"
        assert done.weight == sum(samples for _, samples in accepted), f"seed {seed}"

    # no acknowledged delta is lost
    here = [digest for digest in receipts(world) if digest not in world.lost_deltas]
    unknown = [digest.hex() for digest in here if not ledger.knows_delta(digest)]
    assert not unknown, f"seed {seed}: receipts without a delta in the ledger: {unknown}"

    # what is in the ledger was made by its device, and by nobody else
    for done in closed:
        for name, digest in ledger.database.execute(
            "SELECT device, digest FROM deltas WHERE round = ?", (done.number,)
        ):
            made = next(device.made for device in world.devices if device.name == name)
            assert digest in made, f"seed {seed}: a delta of {name} in round {done.number}"

    # the sum equals the reference to float64 rounding
    latest = ledger.latest_version()
    assert latest is not None and latest.version == len(closed)
    expected = replayed_sum(world)
    np.testing.assert_allclose(latest.exact, expected, rtol=1e-12, atol=1e-12, err_msg=f"seed {seed}")

    # what an update leaves out goes into the next one: the loss is that of the last update alone
    if latest.version > 0:
        left_out = np.linalg.norm(latest.exact - latest.parameters)
        asked = np.linalg.norm(latest.exact - ledger.parameters(latest.version - 1))
        assert left_out <= 0.17 * asked + 1e-5, f"seed {seed}: {left_out} of {asked} is left out"

    # every device holds the same parameters, bit by bit
    for device in world.devices:
        held = device.shell.journal.vector()
        assert held.tobytes() == latest.parameters.tobytes(), f"seed {seed}: {device.name}"

    # error feedback: what a device learnt is either in the ledger or still owed, never gone; but what it
    # learnt for a ledger that was lost is
    if "feedback" in world.chain:
        for device in world.devices:
            owed = device.shell.journal.residual()
            learnt = sum(
                (vector for (run, _), vector in device.learnt.items() if run == ledger.run()), np.zeros(SIZE)
            )
            said = told(world, device) + (0 if owed is None else owed)
            np.testing.assert_allclose(said, learnt, atol=1e-3, err_msg=f"seed {seed}: {device.name}")
    return world


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_nothing_is_lost_or_counted_twice(first: int) -> None:
    for seed in range(first, min(first + BLOCK, SEEDS)):
        check(seed)


if __name__ == "__main__":
    replayed = check(int(sys.argv[1]))
    print("crashes:", {m.name: m.crashes for m in (replayed.aggregator, *replayed.devices)}, "size:", SIZE)
