"""The house's pages: one HTML file without outside parts, its pictures as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from html import escape

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GREEN, SAND, SEA, RED, GREY = "#2f6f4f", "#c9a227", "#2b6ca3", "#b3402a", "#8a8f94"

_PAGE = """
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
_STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": GREY, "axes.labelcolor": "#333", "xtick.color": "#333",
    "ytick.color": "#333",
}  # fmt: skip


def document(title: str, body: str) -> str:
    """A whole page. body: HTML."""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_PAGE}</style>
{body}
</html>
"""


def tile(big: str, small: str) -> str:
    """A figure with what it says."""
    return f'<div class="tile"><b>{big}</b><span>{small}</span></div>'


def confusion(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """What a model said of windows; rows are the truth."""
    table = np.array(counts)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure, axes_ = axes(4.6, 4.2)
    axes_.imshow(share, cmap="Greens", vmin=0, vmax=1)
    for row, column in np.ndindex(table.shape):
        if table[row, column]:
            color = "white" if share[row, column] > 0.5 else "#333"
            axes_.text(
                column, row, str(table[row, column]), ha="center", va="center", color=color, fontsize=9
            )
    axes_.set(xticks=range(len(labels)), yticks=range(len(labels)), xlabel="said", ylabel="was")
    axes_.set_xticklabels(labels, fontsize=9)
    axes_.set_yticklabels(labels, fontsize=9)
    axes_.spines[:].set_visible(False)
    axes_.tick_params(length=0)
    return svg(figure)


def bars(rows: Sequence[tuple[str, float, str]], text: Callable[[float], str]) -> str:
    """Lying bars. rows: (name, value, colour)."""
    figure, axes_ = axes(5.2, 0.55 * len(rows) + 0.5)
    names, values, colors = zip(*rows, strict=True)
    axes_.barh(range(len(rows)), values, color=colors, height=0.6)
    for place, value in enumerate(values):
        axes_.text(value, place, f" {text(value)}", va="center", fontsize=10)
    axes_.set(yticks=range(len(rows)), xticks=[], xlim=(0, max(values) * 1.35))
    axes_.set_yticklabels(names)
    axes_.invert_yaxis()
    axes_.spines[["bottom", "left"]].set_visible(False)
    axes_.tick_params(length=0)
    return svg(figure)


def axes(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty picture in the house's style; inches."""
    plt.rcParams.update(_STYLE)
    figure = plt.figure(figsize=(width, height))
    return figure, figure.add_subplot()


def svg(figure: Figure) -> str:
    """The picture as an element for a page."""
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", transparent=True)
    plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]
