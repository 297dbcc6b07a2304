"""What a run of the zoo found of each entry, for the table on the page (``tests.zoo.table``)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.support.pages import ROOT

FOLDER = ROOT / "build" / "zoo"


class Found(msgspec.Struct, frozen=True):
    """One entry; None where a run did not come to it.

    parameters, infer_bytes: of its bundle. apart: the largest difference of a program from PyTorch. curve:
    how far the loss of 200 steps is from PyTorch's, as a part of the first loss. along: where that is more
    than a tenth, the same with each step made from where PyTorch stands. device: it was trained on a device,
    released, and ran there in int8.
    """

    apart: float | None = None
    parameters: int | None = None
    infer_bytes: int | None = None
    curve: float | None = None
    along: float | None = None
    device: bool | None = None


def note(name: str, folder: Path = FOLDER, **figures: object) -> None:
    """Keep figures of an entry beside those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    found = msgspec.structs.replace(read(folder).get(name, Found()), **figures)
    (folder / f"{name}.json").write_bytes(msgspec.json.encode(found))


def read(folder: Path = FOLDER) -> dict[str, Found]:
    """By entry."""
    return {
        path.stem: msgspec.json.decode(path.read_bytes(), type=Found)
        for path in sorted(folder.glob("*.json"))
    }
