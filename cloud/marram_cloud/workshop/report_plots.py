"""The pictures of the report, as SVG."""

from __future__ import annotations

from marram_cloud.workshop.budget import Candidate
from marram_cloud.workshop.drawing import GREEN, GREY, RED, SAND, SEA, axes, bars, svg
from marram_cloud.workshop.report import Findings

_COLOURS = {"fp32": GREY, "int8": GREEN, "mixed": SEA, "int8 tuned": SAND, "LiteRT int8": RED}
_MARKERS = "osD^vP*X"


def front(found: Findings) -> str:
    """Every candidate by size and quality; what is on the Pareto front is filled, what was taken ringed."""
    figure, axes_ = axes(9.5, 4.2)
    ratios = sorted({one.pruned for one in found.candidates})
    seen: set[str] = set()
    for one in found.candidates:
        colour, best = _COLOURS[one.precision], one.name in found.front
        value, below, above = _quality(one)
        name = one.name if one.name not in seen else None
        seen.add(one.name)
        axes_.errorbar(
            one.bytes, value, yerr=[[below], [above]], color=colour, elinewidth=1, alpha=0.9, capsize=3,
            marker=_MARKERS[ratios.index(one.pruned)], markersize=9, linestyle="none",
            markerfacecolor=colour if best else "white", label=name,
        )  # fmt: skip
        if one == found.chosen:
            axes_.plot(one.bytes, value, "o", markersize=19, markerfacecolor="none", color=RED)
            axes_.annotate(
                "in the bundle", (one.bytes, value), textcoords="offset points", xytext=(14, 14), ha="left",
                color=RED, fontsize=10,
            )  # fmt: skip
    if found.budget.bytes is not None:
        axes_.axvline(found.budget.bytes, color=RED, linewidth=1, linestyle=":")
    base, _, _ = _quality(found.first)
    if found.budget.loss is not None and found.first.quality is not None:
        accurate = found.first.quality.accuracy is not None
        limit = base - found.budget.loss if accurate else base * (1 + found.budget.loss)
        axes_.axhline(limit, color=RED, linewidth=1, linestyle=":")
    if found.first.quality is None or found.first.quality.accuracy is None:
        # Differences far below a hundredth should not look large.
        low, high = axes_.get_ylim()
        axes_.set_ylim(min(low, 0.98 * base), max(high, 1.02 * base))
        axes_.ticklabel_format(axis="y", useOffset=False)
    axes_.set(xlabel="bytes of infer.onnx", ylabel=_axis(found), xlim=(0, None))
    axes_.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=10)
    return svg(figure)


def _axis(found: Findings) -> str:
    quality = found.first.quality
    if quality is None:
        return "difference from float (less is better)"
    return "accuracy, with 95 % interval" if quality.accuracy is not None else "mean score (less is better)"


def _quality(one: Candidate) -> tuple[float, float, float]:
    """(value, how far the interval goes below, above)."""
    quality = one.quality
    if quality is None:
        return one.difference, 0.0, 0.0
    if quality.accuracy is None or quality.low is None or quality.high is None:
        return quality.loss or 0.0, 0.0, 0.0
    # Rounding can put a bound a hair on the wrong side of what it bounds.
    return (
        quality.accuracy,
        max(0.0, quality.accuracy - quality.low),
        max(0.0, quality.high - quality.accuracy),
    )


def latency(found: Findings) -> str:
    """Median as a bar, the 99th percentile as a line to it."""
    rows = found.candidates
    figure, axes_ = axes(5.2, 0.42 * len(rows) + 0.7)
    places = range(len(rows))
    axes_.barh(
        places, [one.cost.p50 for one in rows], color=[_COLOURS[one.precision] for one in rows], height=0.6
    )
    axes_.hlines(
        places, [one.cost.p50 for one in rows], [one.cost.p99 for one in rows], color="#333", linewidth=1
    )
    widest = max(one.cost.p50 for one in rows)
    for place, one in zip(places, rows, strict=True):
        axes_.text(
            one.cost.p50 / 2,
            place,
            f"{one.cost.p50:.0f} µs",
            va="center",
            ha="center",
            color="white",
            fontsize=9,
        )
    axes_.set(yticks=places, xlabel="µs", xlim=(0, 2.5 * widest))
    axes_.set_yticklabels([one.name for one in rows])
    axes_.invert_yaxis()
    return svg(figure)


def layers(found: Findings) -> str:
    """Layer by layer, in the order of the graph."""
    rows = [(f"{one.name}", 100 * one.error, SAND if one.kept_float else GREEN) for one in found.layers]
    return bars(rows, lambda value: f"{value:.2g} %") if rows else "<p>No layer has an int8 form.</p>"


def chains(found: Findings) -> str:
    """Bytes up, a device and round."""
    rows = [(spec, float(size), GREY if spec == "float32" else GREEN) for spec, size in found.chains.items()]
    return bars(rows, lambda value: f"{value:,.0f} bytes")


def members(found: Findings) -> str:
    """Bytes of each file."""
    rows = [
        (name, float(size), GREEN if name.startswith("infer") else GREY)
        for name, size in found.members.items()
    ]
    return bars(rows, lambda value: f"{value:,.0f} bytes")
