"""The pictures of the demo's report, as SVG."""

from __future__ import annotations

from typing import Any

from marram_cloud.workshop import drawing
from marram_cloud.workshop.drawing import GREEN, GREY, RED, SAND, SEA

Figures = dict[str, Any]

_TARGET = 0.80


def accuracy(figures: Figures) -> str:
    """Round by round, with what happened to the fleet meanwhile."""
    rows = figures["accuracy"]["by_round"]
    rounds = [row["round"] for row in rows]
    figure, axes = drawing.axes(9.5, 4.4)
    axes.axhline(_TARGET, color=GREY, linewidth=1, linestyle=":")
    axes.text(rounds[-1] + 0.4, _TARGET, "0.80", va="center", color=GREY, fontsize=9)
    for key, color, text in (
        ("own_windows", SAND, "the devices' own held-back windows (what the aggregator sees)"),
        ("held_out_people", GREEN, "two people that no device has ever seen"),
    ):
        axes.plot(rounds, [row[key] for row in rows], color=color, linewidth=2.2, label=text)
    final = figures["accuracy"]["final_int8"]
    chosen = figures["release"]["parameters_of_round"]
    axes.plot([chosen], [final], "o", color=GREEN, markersize=9, zorder=5)
    axes.annotate(
        f"released in int8: {final:.3f}", (chosen, final), textcoords="offset points", xytext=(0, -30),
        ha="center", color=GREEN,
    )  # fmt: skip
    for round_, texts in _by_round(figures).items():
        axes.axvline(round_, color=RED, linewidth=1, alpha=0.5, ymax=0.28)
        axes.text(round_ + 0.15, 0.02, texts, rotation=90, fontsize=8, color=RED, va="bottom", ha="left")
    axes.set(ylim=(0, 1), xlabel="round", ylabel="accuracy")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.3))
    return drawing.svg(figure)


def sizes(figures: Figures) -> str:
    """What travels, against the fp32 parameters that others send."""
    bytes_ = figures["bytes"]
    rows = [
        ("fp32 parameters", bytes_["fp32_parameters"], GREY),
        ("down, a device and round", bytes_["down_per_device_round"], SEA),
        ("up, a device and round", bytes_["up_per_device_round"], GREEN),
    ]
    return drawing.bars(rows, lambda value: f"{value:,.0f} bytes")


def memory(figures: Figures) -> str:
    """PSS of the processes."""
    memory_ = figures["pss_mib"]
    rows = [
        ("daemon, inferring", memory_["device_idle"], GREEN),
        ("its trainer, while it trains", memory_["trainer_peak"], SAND),
        ("aggregator", memory_["aggregator"], SEA),
    ]
    return drawing.bars(rows, lambda value: f"{value:.0f} MiB")


def confusion(figures: Figures) -> str:
    """What the int8 model said of the held-out people's windows; rows are the truth."""
    return drawing.confusion(figures["accuracy"]["confusion_int8"], figures["accuracy"]["labels"])


def rollout(figures: Figures) -> str:
    """Device by device: what runs, what was tried, what was refused, as the devices reported it."""
    chapter = figures["releases"]
    bad, forged = chapter["bad"], chapter["forged"]
    names = sorted(chapter["running_at_the_end"], reverse=True)
    lanes = {name: place for place, name in enumerate(names)}
    end = figures["seconds"]
    swapped = {one["device"]: one["seconds"] for one in reversed(chapter["reports"]) if one["running"]}
    figure, axes = drawing.axes(9.5, 3.4)
    for name, lane in lanes.items():
        axes.hlines(lane, chapter["began"], swapped[name], color="#d8d5ca", linewidth=9)
        axes.hlines(lane, swapped[name], end, color=GREEN, linewidth=9)
    for marker, color, text, places in (
        ("|", "#333", "begins to fetch", _reported(chapter, "fetching")),
        ("X", RED, "rolled back", _reported(chapter, "rolled_back")),
        ("D", SAND, "refused", [(name, one["seconds"]) for name, one in forged["refused_by"].items()]),
    ):
        x, y = [at for _, at in places], [lanes[name] for name, _ in places]
        axes.plot(
            x, y, marker, color=color, markersize=9, markeredgecolor="white" if marker != "|" else color,
            label=text, zorder=5,
        )  # fmt: skip
    moments = [(one["seconds"], f"to {one['to']}") for one in chapter["stages"]]
    for at, text in [*moments, (bad["seconds"], "a bad release"), (forged["seconds"], "a forged release")]:
        axes.axvline(at, color=GREY, linewidth=1, linestyle=":")
        axes.text(at, len(names) - 0.35, text, rotation=20, fontsize=9, color="#333", ha="left", va="bottom")
    axes.set(yticks=range(len(names)), xlabel="seconds", ylim=(-0.7, len(names) - 0.4))
    axes.set_yticklabels(names)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    return drawing.svg(figure)


def _reported(chapter: dict[str, Any], stage: str) -> list[tuple[str, float]]:
    """(device, seconds) of every report of that stage."""
    return [(one["device"], one["seconds"]) for one in chapter["reports"] if one["stage"] == stage]


def _by_round(figures: Figures) -> dict[int, str]:
    """The mishaps, one text a round."""
    found: dict[int, list[str]] = {}
    for event in figures["events"]:
        text = event["text"]
        if "killed" in text:
            found.setdefault(event["round"], []).append(
                "kill -9: " + ("aggregator" if "aggregator" in text else "device")
            )
        elif text.startswith("an intruder sent a "):
            found.setdefault(event["round"], []).append(
                text.removeprefix("an intruder sent a ").split(":")[0]
            )
    return {round_: ", ".join(texts) for round_, texts in found.items()}
