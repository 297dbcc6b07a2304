"""A release that went wrong before anybody signed it: it says the class next to the one that it means."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
from marram.bundle.file import encode, read
from onnx import helper, numpy_helper


def mixed_up(good: Path, version: str) -> bytes:
    """The bundle ``good`` under another version, its scores (batch, classes) turned on by one class."""
    bundle = read(good)
    file = bundle.manifest.programs["infer"].file
    model = onnx.load_from_string(bundle.members[file])
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["right" if name == "scores" else name for name in names]
    order = np.roll(np.arange(len(bundle.manifest.labels)), 1)
    model.graph.initializer.append(numpy_helper.from_array(order, "order"))
    model.graph.node.append(helper.make_node("Gather", ["right", "order"], ["scores"], axis=1))
    manifest = msgspec.structs.replace(bundle.manifest, version=version)
    return encode(manifest, {**bundle.members, file: model.SerializeToString()})
