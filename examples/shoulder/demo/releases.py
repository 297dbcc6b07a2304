"""The chapter of releases: a good one in stages, one that undoes itself, and one that nobody signed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from marram.bundle.file import read
from marram_cloud.releases.rollout.audience import describe

from examples.shoulder.demo.fleet import Fleet, Status
from examples.shoulder.demo.forger import Forger
from examples.shoulder.demo.intruder import Intruder
from examples.shoulder.demo.mishap import mixed_up
from examples.shoulder.demo.site import CANARIES, GROUP, MODEL

_STAGES = (f"group:{GROUP}", "50%", "all")
_SOAK = "2s"
_ANNOUNCE_EVERY = 2.0
_SETTLE = 100  # windows under the released model, after everything
BAD, FORGED = "2", "3"  # versions


@dataclass
class Chapter:
    """What happened. began: seconds of the fleet's time. version: of the good release.

    stages: (seconds, audience, devices that ran it when the stage began). bad: why each device went back from
    the bad release; paused: why its roll-out stopped. forged: when each device refused the forged one
    (seconds), and its words.
    """

    began: float
    version: str = ""
    stages: list[tuple[float, str, int]] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    bad_began: float = 0.0
    paused: str = ""
    forged: dict[str, tuple[float, str]] = field(default_factory=dict)
    forged_began: float = 0.0


def tell(fleet: Fleet, intruder: Intruder) -> Chapter:
    """All of it; at the end every device runs the good release."""
    chapter = Chapter(fleet.seconds)
    _good(fleet, chapter)
    _bad(fleet, chapter)
    _forged(fleet, intruder, chapter)
    began = {name: status["windows"]["predicted"] for name, status in fleet.statuses().items()}
    fleet.until(
        "windows under the new model",
        lambda: all(
            status["windows"]["predicted"] > began[name] + _SETTLE
            for name, status in fleet.statuses().items()
        ),
    )
    return chapter


def _good(fleet: Fleet, chapter: Chapter) -> None:
    """The learnt parameters as an int8 release: first to the canaries, then to half of all, then to all."""
    site = fleet.site
    file = site.folder / "release.marram"
    fleet.tell(f"release: {site.build(file)}")
    chapter.version = read(file).manifest.version
    good = target(chapter.version)
    site.release(file, chapter.version, _STAGES[0], _STAGES[1:], _SOAK)

    def confirmed() -> bool:
        running = [one for one in _releases(fleet).values() if one["running"] == good]
        plan = site.document().plan(good)
        audience = describe(plan) if plan is not None else "nobody"
        if not chapter.stages or chapter.stages[-1][1] != audience:
            chapter.stages.append((round(fleet.seconds, 1), audience, len(running)))
            fleet.tell(f"its roll-out goes to {audience}; {len(running)} devices run it")
        return len(running) == len(fleet.devices) and all(one["confirmed"] for one in running)

    fleet.until("every device runs the release", confirmed)
    fleet.tell("every device has fetched it, tried it beside the model of before, and runs it")


def _bad(fleet: Fleet, chapter: Chapter) -> None:
    """Signed in good faith and wrong: the canaries go back by themselves, and nobody else begins."""
    site = fleet.site
    file, bad = site.folder / "bad.marram", target(BAD)
    file.write_bytes(mixed_up(site.released_bundle(CANARIES[0]), BAD))
    chapter.bad_began = round(fleet.seconds, 1)
    site.release(file, BAD, _STAGES[0], _STAGES[1:], _SOAK)
    fleet.tell("a release with mixed up classes is signed and promoted in the same way")

    def paused() -> bool:
        for name, one in _releases(fleet).items():
            if bad in one["refused"] and name not in chapter.bad:
                chapter.bad[name] = one["refused"][bad]
                fleet.tell(f"{name} has tried it and keeps what it runs: {chapter.bad[name]}")
        plan = site.document().plan(bad)
        return plan is not None and plan.paused and len(chapter.bad) == len(CANARIES)

    fleet.until("the bad release is stopped", paused)
    chapter.paused = site.document().schedules[bad].paused
    fleet.tell("its roll-out has paused itself; no other device has begun with it")


def _forged(fleet: Fleet, intruder: Intruder, chapter: Chapter) -> None:
    """Announced on the broker and sent to whoever asks, but signed by other keys than the fleet's."""
    site = fleet.site
    file = site.folder / "forged.marram"
    file.write_bytes(mixed_up(site.released_bundle(CANARIES[0]), FORGED))
    forger = Forger(site.folder / "intruder", MODEL, FORGED, file)
    chapter.forged_began = round(fleet.seconds, 1)
    fleet.tell("an intruder announces a release of its own and answers the devices that ask for it")
    announced = 0.0

    def refused() -> bool:
        nonlocal announced
        # The aggregator puts the announcement right, so it has to be made again for whom it missed.
        if time.monotonic() - announced > _ANNOUNCE_EVERY:
            intruder.announce(forger)
            announced = time.monotonic()
        for name, one in _releases(fleet).items():
            if one["problem"]:
                chapter.forged.setdefault(name, (round(fleet.seconds, 1), one["problem"]))
        return len(chapter.forged) == len(fleet.devices)

    fleet.until("every device refuses the forged release", refused)
    intruder.give_up()
    fleet.tell(f"every device has refused it: {next(iter(chapter.forged.values()))[1]}")


def _releases(fleet: Fleet) -> dict[str, Status]:
    return {name: status["release"] for name, status in fleet.statuses().items()}


def target(version: str) -> str:
    """Path of a release in the repository."""
    return f"{MODEL}/{version}.marram"
