"""The report as one page: what was tried, what was taken, and what it costs."""

from __future__ import annotations

from html import escape
from pathlib import Path

from marram.storage import replace_file

from marram_cloud.workshop import report_plots as plots
from marram_cloud.workshop.budget import Candidate
from marram_cloud.workshop.drawing import confusion, document, tile
from marram_cloud.workshop.report import Findings

_MIB = 1 << 20


def write(found: Findings, path: Path) -> None:
    """As ``report.html``."""
    replace_file(path, document(f"Marram: {found.name} {found.version}", _body(found)).encode())


def _body(found: Findings) -> str:
    chosen = found.chosen
    asked = f"Asked for: <code>{escape(str(found.budget))}</code>. " if found.budget else ""
    return f"""<h1>{escape(found.name)} {escape(found.version)}: {escape(chosen.name)}</h1>
<p class="lead">{asked}{_judged(found)} Times are of one window on one thread of the machine that built it
({escape(found.machine)}): a device differs, the ratios less so.</p>
<div class="tiles">{"".join(tile(big, small) for big, small in _tiles(found))}</div>
<div class="card"><h2>What was tried: size, quality, time</h2>{plots.front(found)}{_candidates(found)}
{_litert(found)}</div>
<div class="pair">
<div class="card"><h2>Time of a window: median, and 99th percentile</h2>{plots.latency(found)}</div>
<div class="card"><h2>Difference of the outputs when only this layer is int8</h2>{plots.layers(found)}</div>
</div>
{_confusions(found)}
<div class="pair">
<div class="card"><h2>A round's delta, by chain</h2>{plots.chains(found)}</div>
<div class="card"><h2>The bundle</h2>{plots.members(found)}</div>
</div>
<div class="card"><h2>Figures</h2>{_figures(found)}</div>"""


def _judged(found: Findings) -> str:
    quality = found.first.quality
    if quality is None:
        return (
            "There was no <code>evaluation.npz</code>, so there is no accuracy here: quality is the mean "
            "difference of the outputs from float on the calibration windows."
        )
    return f"Judged on the {quality.windows:,} windows of <code>{escape(found.judged_on)}</code>."


def _litert(found: Findings) -> str:
    return f"<p><code>infer.tflite</code>: {escape(found.tflite)}</p>" if found.tflite else ""


def _tiles(found: Findings) -> list[tuple[str, str]]:
    chosen, first = found.chosen, found.first
    tiles = [
        (f"{chosen.bytes / 1000:.1f} kB", f"infer.onnx; unpruned in float {first.bytes / 1000:.1f} kB"),
        (f"{chosen.cost.p50:.0f} µs", f"a window; unpruned in float {first.cost.p50:.0f} µs"),
        (f"{_short(chosen.macs)}", f"multiply-accumulates a window; unpruned {_short(first.macs)}"),
        (f"{chosen.parameters:,}", f"parameters; unpruned {first.parameters:,}"),
        (f"{found.train.p50 / 1000:.2f} ms", f"a training step of {found.batch} windows"),
    ]
    if chosen.quality is not None and chosen.quality.accuracy is not None:
        tiles.insert(0, (f"{chosen.quality.accuracy:.3f}", f"accuracy; unpruned in float {_quality(first)}"))
    elif chosen.quality is not None:
        tiles.insert(0, (f"{chosen.quality.loss:.4g}", f"mean score; unpruned in float {_quality(first)}"))
    return tiles


def _short(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"


def _quality(one: Candidate) -> str:
    quality = one.quality
    if quality is None:
        return f"{one.difference:.2%} off"
    if quality.accuracy is None:
        return f"{quality.loss:.4g}"
    return f"{quality.accuracy:.3f} ({quality.low:.3f} to {quality.high:.3f})"


def _candidates(found: Findings) -> str:
    head = "".join(
        f"<td>{name}</td>"
        for name in ("", "bytes", "parameters", "MACs", "median", "p99", "memory", "quality (95 %)", "loss")
    )
    rows = []
    for one in found.candidates:
        mark = " ◆" if one == found.chosen else ""
        loss = "" if one.loss is None else f"{one.loss:+.4f}"
        name = f"<b>{escape(one.name)}{mark}</b>" if mark else escape(one.name)
        if one.kept_float:
            name += f" <small>({len(one.kept_float)} in float)</small>"
        cells = (
            f"{one.bytes:,}", f"{one.parameters:,}", _short(one.macs), f"{one.cost.p50:.0f} µs",
            f"{one.cost.p99:.0f} µs", f"{one.cost.memory / _MIB:.1f} MiB", _quality(one), loss,
        )  # fmt: skip
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        rows.append(f'<tr><td class="name">{name}</td>{numbers}</tr>')
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _confusions(found: Findings) -> str:
    before, after = found.first.quality, found.chosen.quality
    if before is None or after is None or before.confusion is None or after.confusion is None:
        return ""
    return f"""<div class="pair">
<div class="card"><h2>Before: unpruned, float</h2>{confusion(before.confusion, found.labels)}</div>
<div class="card"><h2>After: {escape(found.chosen.name)}</h2>{confusion(after.confusion, found.labels)}</div>
</div>"""


def _figures(found: Findings) -> str:
    cost, train = found.chosen.cost, found.train
    rows = [
        ("the bundle's files together", f"{found.bundle_bytes:,} bytes"),
        ("inference: added by the program to a process", f"{cost.memory / _MIB:.1f} MiB"),
        ("inference: the process with Python and onnxruntime, at its peak", f"{cost.process / _MIB:.1f} MiB"),
        (f"training step of {found.batch} windows: median", f"{train.p50 / 1000:.2f} ms"),
        ("training step: 99th percentile", f"{train.p99 / 1000:.2f} ms"),
        ("training step: added by the program to a process", f"{train.memory / _MIB:.1f} MiB"),
        ("training step: the process, at its peak", f"{train.process / _MIB:.1f} MiB"),
        ("difference of the outputs from the same model in float", f"{found.chosen.difference:.2%}"),
    ]
    body = "".join(f'<tr><td>{name}</td><td class="number">{value}</td></tr>' for name, value in rows)
    return f"<table>{body}</table>"
