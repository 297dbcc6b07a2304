"""The demo's report as one HTML file without outside parts."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from marram_cloud.workshop.drawing import document, tile

from examples.shoulder.demo import plots

Figures = dict[str, Any]


def write(figures: Figures, path: Path) -> None:
    """Write the page."""
    path.write_text(_page(figures))


def _page(figures: Figures) -> str:
    accuracy, deltas, windows = figures["accuracy"], figures["deltas"], figures["windows"]
    people = " and ".join(f"{value:.2f}" for value in accuracy["final_int8_by_person"].values())
    tiles = [
        (f"{accuracy['final_int8']:.3f}", "accuracy on people never seen, int8, on the devices"),
        (f"{accuracy['final_fp32']:.3f}", "the same parameters in fp32"),
        (f"1/{figures['bytes']['up_ratio']:.0f}", "of the fp32 bytes up, a device and round"),
        (f"{figures['rounds']}", f"rounds in {figures['seconds']:.0f} seconds"),
        (f"{deltas['counted']}/{deltas['accepted']}", "accepted deltas counted, each once"),
        (f"{windows['lost_in_swap']}", f"of {windows['predicted']:,} windows lost while releases came"),
    ]
    return document(
        "Marram: what the demo did",
        f"""<h1>Eight devices learned seven exercises</h1>
<p class="lead">Eight <code>marram run</code> processes, each with one person's smartwatch recordings, an
aggregator and an MQTT broker on this machine. No recording left its device; signed deltas of
{figures["bytes"]["up_per_device_round"]:.0f} bytes did. Two more people were held out: the released int8
model is right on {people} of their windows.</p>
<div class="tiles">{"".join(tile(big, small) for big, small in tiles)}</div>
<div class="card"><h2>Accuracy by round</h2>{plots.accuracy(figures)}</div>
<div class="card"><h2>Releases: green runs the released model</h2>{plots.rollout(figures)}
{_releases(figures["releases"])}</div>
<div class="pair">
<div class="card"><h2>What travels</h2>{plots.sizes(figures)}
<h2>Memory (PSS; pages that processes share are split between them)</h2>{plots.memory(figures)}</div>
<div class="card"><h2>Windows of the people never seen</h2>{plots.confusion(figures)}</div>
</div>
<div class="pair">
<div class="card"><h2>What happened</h2>{_events(figures)}</div>
<div class="card"><h2>Figures</h2>{_table(figures)}</div>
</div>""",
    )


def _events(figures: Figures) -> str:
    rows = "".join(
        f'<tr><td class="number">{event["seconds"]:.0f} s</td><td>{escape(event["text"])}</td></tr>'
        for event in figures["events"]
    )
    return f"<table>{rows}</table>"


def _releases(chapter: Figures) -> str:
    bad, forged = chapter["bad"], chapter["forged"]
    problem = next(one["problem"] for one in forged["refused_by"].values())
    stages = "; ".join(
        f"to {one['to']} at {one['seconds']:.0f} s ({one['running']} devices ran it)"
        for one in chapter["stages"]
    )
    rows = [
        ("A good release", stages),
        ("A bad release", "; ".join(f"{name}: {why}" for name, why in bad["rolled_back"].items())),
        ("Its roll-out", f"paused by itself: {bad['paused']}"),
        (
            "A forged release",
            f"announced {forged['announced']} times, {forged['blocks_sent']} blocks sent by the intruder; "
            f"refused by {len(forged['refused_by'])} devices: {problem}",
        ),
    ]
    body = "".join(f'<tr><td class="name">{name}</td><td>{escape(text)}</td></tr>' for name, text in rows)
    return f"<table>{body}</table>"


def _table(figures: Figures) -> str:
    latency, release = figures["latency_us"], figures["release"]
    refused = [(f"refused: {kind.replace('_', ' ')}", count) for kind, count in figures["refused"].items()]
    rows = [
        ("accuracy before the first round", f"{figures['accuracy']['start']:.3f}"),
        *refused,
        ("windows dropped", figures["windows"]["dropped"]),
        ("latency of a prediction, median", f"{latency['p50']:.0f} µs"),
        ("latency of a prediction, 99th percentile", f"{latency['p99']:.0f} µs"),
        ("down, a device and round", f"{figures['bytes']['down_per_device_round']:.0f} bytes"),
        ("release", escape(release["version"])),
        ("size of the release", f"{release['bytes']:,} bytes"),
        *((f"kill -9 of {name}", count) for name, count in figures["kills"].items()),
    ]
    body = "".join(f'<tr><td>{name}</td><td class="number">{value}</td></tr>' for name, value in rows)
    return f"<table>{body}</table>"
