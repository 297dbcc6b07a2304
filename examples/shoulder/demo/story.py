"""What happens to the fleet while it learns: power cuts, a dead aggregator, an intruder."""

from __future__ import annotations

import sqlite3
import time

from examples.shoulder.demo.fleet import Fleet
from examples.shoulder.demo.gate import Gate
from examples.shoulder.demo.intruder import EXPECTED, Intruder
from examples.shoulder.demo.process import DemoError

CUT_IN_TRAINING, CUT_BEFORE_UPLOAD = "person-03", "person-05"
_OFF = 1.0  # seconds without power


def power_cut_in_training(fleet: Fleet) -> None:
    """kill -9 while the trainer child runs; the device comes back and takes part again."""
    name = CUT_IN_TRAINING
    device = fleet.devices[name]
    fleet.until(f"{name} trains", lambda: _training(fleet, name))
    round_ = fleet.open_round
    device.kill()
    fleet.tell(f"power cut: {name} was killed in training (round {round_})")
    time.sleep(_OFF)
    device.start()
    fleet.until(f"{name} delivers again", lambda: _delivered(fleet, name, round_))
    fleet.tell(f"{name} is back and has delivered a delta")


def power_cut_before_upload(fleet: Fleet, gate: Gate) -> None:
    """The network hangs, the device finishes its training, then its power fails: the delta is not lost."""
    name = CUT_BEFORE_UPLOAD
    device = fleet.devices[name]
    fleet.until(f"{name} trains", lambda: _training(fleet, name))
    gate.hang()
    fleet.until(f"{name} has a delta in its outbox", lambda: _outbox(fleet, name) > 0)
    round_ = fleet.open_round
    device.kill()
    journal = sqlite3.connect(fleet.site.state(name) / "journal.db")
    digests = [row[0] for row in journal.execute("SELECT digest FROM outbox")]
    journal.close()
    fleet.tell(f"power cut: {name} was killed after training, its delta not sent (round {round_})")
    time.sleep(_OFF)
    device.start()
    fleet.until("the delta arrives", lambda: all(fleet.ledger.knows_delta(digest) for digest in digests))
    fleet.tell(f"{name} is back and has delivered the delta that it kept")


def aggregator_killed(fleet: Fleet) -> None:
    """kill -9 of the aggregator with some deltas of a round taken and others on their way."""
    fleet.until("a round is half full", lambda: _half_full(fleet))
    round_ = fleet.open_round
    taken = len(fleet.ledger.delta_devices(round_))
    fleet.aggregator.kill()
    fleet.tell(f"the aggregator was killed in round {round_} with {taken} deltas taken")
    time.sleep(_OFF)
    fleet.aggregator.start()
    fleet.until("the round is closed", lambda: fleet.rounds_closed > round_)
    fleet.tell(f"the aggregator is back and has closed round {round_}")


def intrusion(fleet: Fleet, intruder: Intruder) -> dict[str, int]:
    """Every attack once, each at the begin of a round; how often each was counted under its reason."""
    return {kind: _attack(fleet, intruder, kind, reason) for kind, reason in EXPECTED.items()}


def _attack(fleet: Fleet, intruder: Intruder, kind: str, reason: str) -> int:
    if not intruder.wait_for_offer(120):
        raise DemoError("no round was offered for two minutes")
    before = fleet.ledger.refusals().get(reason, 0)

    def counted() -> int:
        return fleet.ledger.refusals().get(reason, 0) - before

    intruder.attack(kind)
    fleet.until(f"the {kind} delta is refused as {reason}", lambda: counted() > 0)
    fleet.tell(f"an intruder sent a {kind.replace('_', ' ')} delta: refused ({reason})")
    return counted()


def _training(fleet: Fleet, name: str) -> bool:
    status = fleet.status(name)
    return status is not None and status["training"]["running"] is not None


def _outbox(fleet: Fleet, name: str) -> int:
    status = fleet.status(name)
    return 0 if status is None else int(status["rounds"]["outbox"])


def _delivered(fleet: Fleet, name: str, since: int) -> bool:
    rounds = range(since, fleet.open_round + 1)
    return any(name in dict(fleet.ledger.delta_devices(number)) for number in rounds)


def _half_full(fleet: Fleet) -> bool:
    return 2 <= len(fleet.ledger.delta_devices(fleet.open_round)) <= len(fleet.devices) // 2
