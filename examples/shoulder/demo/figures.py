"""Every figure of the demo's report, and the few lines of it for a terminal."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from marram.bundle.file import read

from examples.shoulder import people
from examples.shoulder.demo import evaluate
from examples.shoulder.demo.fleet import Fleet, Status
from examples.shoulder.demo.intruder import Intruder
from examples.shoulder.demo.releases import BAD, FORGED, Chapter, target
from examples.shoulder.demo.site import Site

Figures = dict[str, Any]


def collect(
    site: Site, fleet: Fleet, intruder: Intruder, refused: dict[str, int], learnt: dict[str, Status],
    statuses: dict[str, Status], seconds: float, chapter: Chapter,
) -> Figures:  # fmt: skip
    """What ``report.json`` holds.

    learnt, statuses: what the devices said after the last round, and at the end. seconds: since the start.
    chapter: of the releases.
    """
    ledger = fleet.ledger
    rounds = [one for one in ledger.rounds() if one.closed is not None]
    closed = {one.number for one in rounds}
    measured = [ledger.round_figures(one.number) for one in rounds]
    accepted = sum(count for count, *_ in measured)
    names = list(fleet.devices)
    released = read(site.released_bundle(names[0]))
    initial = people.bundle()
    int8 = evaluate.int8_on_devices(site, site.released_bundle(names[0]))
    stride = released.manifest.stride / released.manifest.rate
    lost = evaluate.lost_in_swap(site, names, released.manifest.version, stride)
    whole = [name for name in names if fleet.devices[name].kills == 0]
    down = [learnt[name]["link"]["bytes_in"] for name in whole]
    latencies = [status["windows"]["latency_us"] for status in statuses.values()]
    fp32 = released.manifest.parameter_count * 4
    up = intruder.heard.delta_bytes / len(set(_heard(intruder)))
    return {
        "accuracy": {
            "start": evaluate.accuracy(initial, initial.parameters()),
            "final_int8": int8.overall,
            "final_fp32": evaluate.accuracy(released, released.parameters()),
            "final_int8_by_person": {str(person): value for person, value in int8.accuracy.items()},
            "confusion_int8": int8.confusion.tolist(),
            "labels": list(released.manifest.labels),
            "by_round": [
                {
                    "round": one.number,
                    "own_windows": _mean_accuracy(figures[2]),
                    "held_out_people": evaluate.accuracy(initial, ledger.parameters(one.version)),
                }
                for one, figures in zip(rounds, measured, strict=True)
            ],
        },
        "rounds": len(rounds),
        "seconds": round(seconds, 1),
        "bytes": {
            "up_per_device_round": round(up, 1),
            "down_per_device_round": round(statistics.fmean(down) / len(rounds), 1),
            "fp32_parameters": fp32,
            "up_ratio": round(fp32 / up, 1),
        },
        "deltas": {
            "accepted": accepted,
            "counted": sum(one.counted or 0 for one in rounds),
            "receipts": sum(number in closed for number in intruder.heard.receipts.values()),
        },
        "refused": refused,
        "refused_by_reason": ledger.refusals(),
        "windows": {
            "predicted": sum(status["windows"]["predicted"] for status in statuses.values()),
            "dropped": sum(status["windows"]["dropped"] for status in statuses.values()),
            "failed": sum(status["windows"]["failed"] for status in statuses.values()),
            "lost_in_swap": sum(lost.values()),
        },
        "pss_mib": {
            "device_idle": _mib(statistics.median(fleet.idle_pss)),
            "trainer_peak": _mib(fleet.trainer_pss),
            "aggregator": _mib(fleet.aggregator_pss),
        },
        "latency_us": {
            "p50": statistics.median(one["p50"] for one in latencies),
            "p99": statistics.median(one["p99"] for one in latencies),
        },
        "release": {
            "version": released.manifest.version,
            "parameters_of_round": int(released.manifest.version.rpartition("+r")[2]),
            "bytes": site.released_bundle(names[0]).stat().st_size,
        },
        "releases": _releases(fleet, intruder, chapter, statuses),
        "kills": {
            "aggregator": fleet.aggregator.kills,
            **{name: device.kills for name, device in fleet.devices.items() if device.kills},
        },
        "events": [{"seconds": at, "round": number, "text": text} for at, number, text in fleet.notes],
    }  # fmt: skip


def write(figures: Figures, path: Path) -> None:
    path.write_text(json.dumps(figures, indent=1) + "\n")


def summary(figures: Figures) -> str:
    """The figures that matter most, as text."""
    accuracy, sizes, deltas = figures["accuracy"], figures["bytes"], figures["deltas"]
    memory, windows, releases = figures["pss_mib"], figures["windows"], figures["releases"]
    refused = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in figures["refused"].items())
    return "\n".join(
        [
            "",
            f"people never seen   {accuracy['start']:.2f} -> {accuracy['final_int8']:.3f} in int8 "
            f"({accuracy['final_fp32']:.3f} in fp32), {figures['rounds']} rounds, {figures['seconds']:.0f} s",
            f"up a device, round  {sizes['up_per_device_round']:.0f} bytes; its fp32 parameters are "
            f"{sizes['fp32_parameters']} ({sizes['up_ratio']:.0f} times as many)",
            f"deltas              {deltas['accepted']} accepted, {deltas['counted']} counted",
            f"refused             {refused}",
            f"windows             {windows['predicted']} predicted, {windows['dropped']} dropped, "
            f"{windows['lost_in_swap']} lost while releases came",
            f"a bad release       rolled back by {len(releases['bad']['rolled_back'])} devices, begun by "
            f"{len(releases['bad']['begun_by'])} of {len(releases['running_at_the_end'])}",
            f"a forged release    refused by {len(releases['forged']['refused_by'])} devices",
            f"memory (PSS)        {memory['device_idle']:.0f} MiB a device, {memory['trainer_peak']:.0f} MiB "
            f"its trainer, {memory['aggregator']:.0f} MiB the aggregator",
        ]
    )


def _releases(
    fleet: Fleet, intruder: Intruder, chapter: Chapter, statuses: dict[str, Status]
) -> dict[str, Any]:
    """The chapter, with every change of stage as the devices reported it."""
    reports = [
        {
            "seconds": round(at - fleet.began, 2), "device": device, "stage": report.stage,
            "release": report.candidate, "running": report.running,
        }
        for at, device, report in intruder.heard.reports
        if at - fleet.began >= chapter.began
    ]  # fmt: skip
    return {
        "began": round(chapter.began, 1),
        "stages": [
            {"seconds": at, "to": audience, "running": running} for at, audience, running in chapter.stages
        ],
        "running_at_the_end": {name: status["release"]["running"] for name, status in statuses.items()},
        "bad": {
            "version": BAD, "seconds": chapter.bad_began,
            "begun_by": sorted({one["device"] for one in reports if one["release"] == target(BAD)}),
            "rolled_back": chapter.bad, "paused": chapter.paused,
        },
        "forged": {
            "version": FORGED, "seconds": chapter.forged_began, "announced": intruder.sent["timestamp"],
            "blocks_sent": intruder.sent["block"],
            "refused_by": {
                name: {"seconds": at, "problem": problem} for name, (at, problem) in chapter.forged.items()
            },
        },
        "reports": reports,
    }  # fmt: skip


def _heard(intruder: Intruder) -> list[bytes]:
    return [delta for deltas in intruder.heard.deltas.values() for delta in deltas]


def _mean_accuracy(metrics: list[Any]) -> float:
    count = sum(one.count for one in metrics)
    return float(sum((one.accuracy or 0.0) * one.count for one in metrics) / count)


def _mib(size: float) -> float:
    return round(size / 2**20, 1)
