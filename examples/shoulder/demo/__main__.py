"""``make demo``: a fleet of eight real devices learns from real recordings while things go wrong.

An embedded broker, the aggregator and eight ``marram run`` processes, each with its own YAML, key and state
folder, all on loopback. At the end ``report.html`` and ``report.json`` say what happened.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from marram.errors import MarramError
from marram.wire.topics import Topics

from examples.shoulder import people
from examples.shoulder.demo import broker, figures, page, releases, story
from examples.shoulder.demo.fleet import Fleet, Status
from examples.shoulder.demo.gate import Gate
from examples.shoulder.demo.intruder import Intruder
from examples.shoulder.demo.process import DemoError
from examples.shoulder.demo.releases import Chapter
from examples.shoulder.demo.site import FLEET, INSIDER, REGION, Site, device_name, make

_ROUNDS = 45
_ENOUGH_SECONDS = 200.0  # of learning: on a busy machine fewer rounds must do
_FEWEST_ROUNDS = 12  # so many the story needs
_ENOUGH_WINDOWS = 250


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/demo"))
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    options = parser.parse_args()
    if options.rounds < _FEWEST_ROUNDS:
        parser.error(f"--rounds: the story needs at least {_FEWEST_ROUNDS}")
    try:
        run(options.folder.absolute(), options.rounds)
    except (DemoError, MarramError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def run(folder: Path, rounds: int) -> None:
    """The demo from its first file to its report."""
    names = [device_name(person) for person in people.DEVICES]
    port, gated = broker.free_port(), broker.free_port()
    site = make(folder, port, {story.CUT_BEFORE_UPLOAD: gated}, rounds)
    running = broker.start(folder, port)
    gate = Gate(gated, port)
    intruder = Intruder(port, Topics(FLEET, REGION), folder / "fleet" / "devices" / INSIDER)
    fleet = Fleet.of(site, names)
    try:
        refused = learn(fleet, gate, intruder, rounds)
        learnt = fleet.statuses()
        chapter = releases.tell(fleet, intruder)
        report(site, fleet, intruder, refused, learnt, chapter)
    finally:
        fleet.stop()
        intruder.stop()
        gate.stop()
        running.stop()


def learn(fleet: Fleet, gate: Gate, intruder: Intruder, rounds: int) -> dict[str, int]:
    """Everything up to the last round; the refused messages, by kind."""
    fleet.tell("eight devices start, each with the recordings of one person; nobody has trained anything yet")
    for device in fleet.devices.values():
        device.start()
    fleet.until("all devices have windows", lambda: all_have_windows(fleet))
    fleet.tell(f"each device has {_ENOUGH_WINDOWS} windows or more; the aggregator starts")
    fleet.aggregator.start()
    fleet.until("the first round", lambda: fleet.rounds_closed > 1)
    story.power_cut_in_training(fleet)
    story.power_cut_before_upload(fleet, gate)
    story.aggregator_killed(fleet)
    refused = story.intrusion(fleet, intruder)
    fleet.until(
        f"{rounds} rounds",
        lambda: (
            fleet.rounds_closed >= rounds
            or (fleet.seconds > _ENOUGH_SECONDS and fleet.rounds_closed >= _FEWEST_ROUNDS)
        ),
        patience=1200,
    )
    return refused


def report(
    site: Site, fleet: Fleet, intruder: Intruder, refused: dict[str, int], learnt: dict[str, Status],
    chapter: Chapter,
) -> None:  # fmt: skip
    """Figures and page; the fleet is stopped in between, so that all its files are complete."""
    statuses = fleet.statuses()
    seconds = fleet.seconds
    fleet.stop()
    collected = figures.collect(site, fleet, intruder, refused, learnt, statuses, seconds, chapter)
    figures.write(collected, site.folder / "report.json")
    page.write(collected, site.folder / "report.html")
    print(figures.summary(collected))
    print(f"\nThe report: {site.folder / 'report.html'}")


def all_have_windows(fleet: Fleet) -> bool:
    statuses = fleet.statuses().values()
    return len(statuses) == len(fleet.devices) and all(
        status["store"]["labelled"] >= _ENOUGH_WINDOWS for status in statuses
    )


if __name__ == "__main__":
    sys.exit(main())
