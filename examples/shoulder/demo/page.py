"""The demo's report as one HTML file without outside parts."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from examples.shoulder.demo import plots

Figures = dict[str, Any]

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #faf9f5; max-width: 62rem;
       margin: 0 auto; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; color: #2f6f4f; }
h2 { font-size: 1.1rem; margin: 0 0 .6rem; }
p.lead { margin: 0 0 1.5rem; color: #555; max-width: 46rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem;
         margin-bottom: 1rem; }
.tile, .card { background: #fff; border: 1px solid #e4e1d6; border-radius: 8px; padding: .9rem 1rem; }
.tile b { display: block; font-size: 1.5rem; color: #2f6f4f; font-weight: 600; }
.tile span { font-size: .85rem; color: #666; }
.card { margin-bottom: 1rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
@media (max-width: 50rem) { .pair { grid-template-columns: 1fr; } }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .92rem; width: 100%; }
td { text-align: left; padding: .18rem .8rem .18rem 0; vertical-align: top; border-bottom: 1px solid #eee; }
td.name { white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


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
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Marram: what the demo did</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style>
<h1>Eight devices learned seven exercises</h1>
<p class="lead">Eight <code>marram run</code> processes, each with one person's smartwatch recordings, an
aggregator and an MQTT broker on this machine. No recording left its device; signed deltas of
{figures["bytes"]["up_per_device_round"]:.0f} bytes did. Two more people were held out: the released int8
model is right on {people} of their windows.</p>
<div class="tiles">{"".join(_tile(big, small) for big, small in tiles)}</div>
<div class="card"><h2>Accuracy by round</h2>{plots.accuracy(figures)}</div>
<div class="pair">
<div class="card"><h2>What travels</h2>{plots.sizes(figures)}
<h2>Memory (PSS; pages that processes share are split between them)</h2>{plots.memory(figures)}</div>
<div class="card"><h2>Windows of the people never seen</h2>{plots.confusion(figures)}</div>
</div>
<div class="card"><h2>Releases: green runs the released model</h2>{plots.rollout(figures)}
{_releases(figures["releases"])}</div>
<div class="pair">
<div class="card"><h2>What happened</h2>{_events(figures)}</div>
<div class="card"><h2>Figures</h2>{_table(figures)}</div>
</div>
</html>
"""


def _tile(big: str, small: str) -> str:
    return f'<div class="tile"><b>{big}</b><span>{small}</span></div>'


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
