"""The stream once more, as slowly and plainly as it can be said: one sensor, one sample after the other.

It takes the words of the configuration and of the modules' docstrings, none of their code.
"""

import math

import numpy as np


def clean(channel, samples):
    """[(time, value or None, flagged)] of one channel: [(time, raw)]."""
    out, since, before = [], None, None
    for time, raw in samples:
        value = np.float32(np.float32(raw) * np.float32(channel.scale) + np.float32(channel.offset))
        if (
            before is None
            or raw != before[1]
            or math.isnan(raw)
            or not 0 <= time - before[0] <= channel.max_gap
        ):
            since = time
        before = (time, raw)
        flagged = False
        if not math.isfinite(value):
            value = None
        elif (channel.min is not None and value < channel.min) or (
            channel.max is not None and value > channel.max
        ):
            if channel.out_of_range == "missing":
                value = None
            else:
                flagged = True
                if channel.out_of_range == "clip":
                    value = np.float32(max(channel.min, min(value, channel.max)))
        if channel.stuck_after is not None and time - since > channel.stuck_after:
            if channel.stuck == "missing":
                value = None
            else:
                flagged = True
        out.append((time, value, flagged))
    return out


def forward(samples):
    """Samples whose time is later than all before."""
    kept = []
    for sample in samples:
        if not kept or sample[0] > kept[-1][0]:
            kept.append(sample)
    return kept


def runs(samples, max_gap):
    """Stretches without a gap."""
    out = []
    for sample in samples:
        if not out or sample[0] - out[-1][-1][0] > max_gap:
            out.append([])
        out[-1].append(sample)
    return out


def ticks(run, rate):
    """[(time, [value or None of each channel], flagged, label)] of one run, whose samples look the same."""
    origin, tolerance, out, k = run[0][0], 0.1 / rate, [], 0
    while origin + k / rate - tolerance <= run[-1][0]:
        tick = origin + k / rate
        near = [sample for sample in run if tick - tolerance <= sample[0] <= tick + tolerance]
        if near:
            out.append((tick, *near[0][1:]))
        else:
            low = [sample for sample in run if sample[0] < tick][-1]
            high = next(sample for sample in run if sample[0] > tick)
            weight = (tick - low[0]) / (high[0] - low[0])
            values = [
                None if a is None or b is None else float(a) + (float(b) - float(a)) * weight
                for a, b in zip(low[1], high[1], strict=True)
            ]
            out.append((tick, values, low[2] or high[2], (low if weight < 0.5 else high)[3]))
        k += 1
    return out


def fill(row, mode, limit):
    """Values of one channel with holes (None): [(value or None, filled)]; None is lost."""
    good = [index for index, value in enumerate(row) if value is not None]
    out = []
    for index, value in enumerate(row):
        if value is not None:
            out.append((value, False))
            continue
        left = max((g for g in good if g < index), default=None)
        right = min((g for g in good if g > index), default=None)
        if mode == "interpolate" and left is not None and right is not None and right - left <= limit:
            weight = (index - left) / (right - left)
            out.append((float(row[left]) + (float(row[right]) - float(row[left])) * weight, True))
        elif (mode == "flag" and left is not None) or (
            mode == "hold" and left is not None and index - left <= limit
        ):
            out.append((row[left], True))
        else:
            out.append((None, False))
    return out


def windows(samples, rate, length, stride, max_gap, mode, channels):
    """[(start, end, values (channels, length), label, repaired)] of samples (time, raw values, label)."""
    columns = [clean(channel, [(s[0], s[1][i]) for s in samples]) for i, channel in enumerate(channels)]
    cleaned = [
        (sample[0], [column[n][1] for column in columns], any(column[n][2] for column in columns), sample[2])
        for n, sample in enumerate(samples)
    ]
    out, limit = [], math.floor(max_gap * rate + 1e-6)
    # "flag" holds the last value however long, over the end of a run too.
    held = [None] * len(channels)
    for run in runs(forward(cleaned), max_gap):
        grid = ticks(run, rate)
        rows = []
        for i in range(len(channels)):
            row = [tick[1][i] for tick in grid]
            if mode == "flag":
                rows.append(fill([held[i], *row], mode, limit)[1:])
                held[i] = rows[-1][-1][0]
            else:
                rows.append(fill(row, mode, limit))
        if mode == "drop":
            stretches = [(0, len(grid))]
        else:
            lost = [any(row[n][0] is None for row in rows) for n in range(len(grid))]
            stretches, begin = [], 0
            for n in range(len(grid) + 1):
                if n == len(grid) or lost[n]:
                    stretches.append((begin, n))
                    begin = n + 1
        for begin, end in stretches:
            for first in range(begin, end - length + 1, stride):
                part = range(first, first + length)
                if any(row[n][0] is None for row in rows for n in part):
                    continue
                values = [[float(row[n][0]) for n in part] for row in rows]
                repaired = any(grid[n][2] or any(row[n][1] for row in rows) for n in part)
                out.append(
                    (
                        grid[first][0],
                        grid[first + length - 1][0],
                        values,
                        most([grid[n][3] for n in part]),
                        repaired,
                    )
                )
    return out


def most(labels):
    """The label of at least half of a window, else ""; of two halves the one first in the model's order."""
    known = sorted({label for label in labels if label})
    for label in sorted(known, key=lambda label: (-labels.count(label), label)):
        return label if 2 * labels.count(label) >= len(labels) else ""
    return ""
