"""The rounds as a person or a program wants to see them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from marram_cloud.ledger.ledger import Ledger, Round
from marram_cloud.releases.choose import summarise


def as_objects(ledger: Ledger) -> dict[str, Any]:
    """Every round, and the refusals by reason, for ``marram-cloud rounds --json``."""
    return {
        "rounds": [_object(ledger, one) for one in ledger.rounds()],
        "refused": ledger.refusals(),
    }


def as_text(ledger: Ledger, last: int) -> str:
    """A table of the last rounds."""
    lines = ["round  version  opened            deltas  windows  bytes up  loss    accuracy (own windows)"]
    for one in ledger.rounds(last):
        row = _object(ledger, one)
        loss = "-" if row["loss"] is None else f"{row['loss']:.4f}"
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.3f}"
        opened = datetime.fromtimestamp(one.opened, UTC).strftime("%Y-%m-%d %H:%M")
        lines.append(
            f"{one.number:5}  {one.version:7}  {opened}  {row['deltas']:6}  {row['windows']:7}  "
            f"{row['bytes']:8}  {loss:6}  {accuracy:8}  {'open' if one.closed is None else ''}"
        )
    refused = ", ".join(f"{reason} {count}" for reason, count in sorted(ledger.refusals().items()))
    lines.append(f"refused: {refused or 'nothing'}")
    return "\n".join(lines)


def _object(ledger: Ledger, one: Round) -> dict[str, Any]:
    deltas, size, before, _ = ledger.round_figures(one.number)
    summary = summarise(one.version, before)
    return {
        "round": one.number,
        "version": one.version,
        "opened": one.opened,
        "closed": one.closed,
        "deltas": deltas,
        "counted": one.counted,
        "windows": one.weight or 0,
        "bytes": size,
        "loss": summary.loss if summary else None,
        "accuracy": summary.accuracy if summary else None,
    }
