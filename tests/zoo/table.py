"""``python -m tests.zoo.table``: what ``make zoo`` found, as the table on docs/bundles.md."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.pages import ROOT
from tests.zoo.found import Found, read
from tests.zoo.projects import ZOO, Entry

PAGE = ROOT / "docs" / "bundles.md"
BEGIN, END = "<!-- made by python -m tests.zoo.table -->", "<!-- until here -->"
SHOWS = {
    "keyword-spotting": "MLPerf Tiny's DS-CNN: depthwise and pointwise `Conv2d`, `BatchNorm`",
    "visual-wake-words": "MLPerf Tiny's MobileNetV1 0.25 on pictures of 96x96",
    "image-classification": "MLPerf Tiny's ResNet-8: residual sums",
    "anomaly-detection": "MLPerf Tiny's autoencoder of `Linear` layers",
    "temporal": "dilated causal `Conv1d`, `GroupNorm`",
    "recurrent": "`GRU` over 50 steps; Huber loss, AdamW, clipping",
    "recurrent-lstm": "`LSTM` over 50 steps",
    "transformer": "two layers of attention: `LayerNorm`, GELU, `Dropout`",
    "convolutional-autoencoder": "`Conv1d` and `ConvTranspose1d`",
    "features": "`Linear` layers on features",
    "adapted": "low-rank adapters (LoRA); only they are trained and travel",
    "norms-and-biases": "only norms and biases are trained and travel",
    "backbone": "ResNet-8 but its end as an int8 backbone that never changes; a head is trained and travels",
}


def table(entries: tuple[Entry, ...], found: dict[str, Found]) -> str:
    """A row an entry, those that no run has reached too."""
    head = [
        "| model | task | parameters that travel | `infer.onnx` | furthest from PyTorch | loss of 200 steps "
        "| on a device |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *(_row(one, found.get(one.name, Found())) for one in entries)])


def _row(entry: Entry, found: Found) -> str:
    shows = f": {SHOWS[entry.name]}" if entry.name in SHOWS else ""
    cells = [
        f"`{entry.name}`{shows}",
        entry.task,
        "" if found.parameters is None else f"{found.parameters:,}",
        "" if found.infer_bytes is None else f"{found.infer_bytes / 1024:.0f} KiB",
        "" if found.apart is None else f"{found.apart:.0e}",
        _curve(found),
        {None: "", True: "trained, released, runs in int8", False: "fails"}[found.device],
    ]
    return f"| {' | '.join(cells)} |"


def _curve(found: Found) -> str:
    if found.curve is None:
        return ""
    if found.along is not None:
        return (
            f"chaotic, as PyTorch's own is; each step from where PyTorch stands: within {found.along:.0e} of "
            "its first"
        )
    return f"within {found.curve:.1%} of its first"


def written(page: str, made: str) -> str:
    """The page with this table between its marks."""
    before, _, rest = page.partition(f"{BEGIN}\n")
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def main(page: Path = PAGE) -> int:
    found = read()
    if not found:
        print("no run of the zoo has left anything in build/zoo: make zoo", file=sys.stderr)
        return 1
    page.write_text(written(page.read_text(), table(ZOO, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
