"""Opens a model file in a process of its own: a hostile one ends this child, and nothing else.

``python -I -m marram.inspection.child PARENT`` reads a ``Look`` from standard input and writes one ``Found``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import msgspec

from marram.children.frames import frame_pipes, read_frame, write_frame
from marram.programs.program import Tensor


class Look(msgspec.Struct, frozen=True):
    """memory: bytes that the child may take."""

    file: str
    runtime: Literal["onnx", "tflite"]
    memory: int


class Found(msgspec.Struct, frozen=True):
    """What the file's program takes and gives."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def main() -> int:
    from marram.children.limits import explain, step_back

    into, out = frame_pipes()
    look = read_frame(into, Look)
    if look is None:
        return 1
    step_back(0, look.memory, int(sys.argv[1]))
    try:
        from marram.programs.program import load

        program = load(Path(look.file).read_bytes(), look.runtime)  # as whoever runs it, from this file alone
        inputs, outputs = (tuple(_plain(one) for one in side) for side in (program.inputs, program.outputs))
    except Exception as error:
        print(explain(error, look.memory), file=sys.stderr)
        return 1
    write_frame(out, Found(inputs, outputs))
    return 0


def _plain(tensor: Tensor) -> Tensor:
    """With a name for every size that varies: some files give none."""
    sizes = enumerate(tensor.shape)
    shape = tuple(size if isinstance(size, int) else str(size or f"size{axis}") for axis, size in sizes)
    return Tensor(tensor.name, tensor.dtype, shape)


if __name__ == "__main__":
    sys.exit(main())
