"""The form of a bundle that LiteRT runs, made anew for other parameters; without torch."""

from __future__ import annotations

from importlib.util import find_spec

import msgspec
import numpy as np
from marram.bundle.manifest import Manifest
from numpy.typing import NDArray

from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.quantise import Ranges

TEMPLATE = "template.tflite"
"""The bundle's member that a release's form is made from. Devices have no use for it."""
FILE = "infer.tflite"


def with_form(
    manifest: Manifest,
    members: dict[str, bytes],
    parameters: NDArray[np.float32],
    ranges: Ranges,
    windows: NDArray[np.float32] | None,
) -> tuple[Manifest, dict[str, bytes], str]:
    """(manifest, members, what became of it): with the int8 form for these parameters, or without one.

    A form with other parameters inside is never kept. ranges: of the activations, as for infer.onnx. windows:
    float32 (n, channels, length), None where there are none.
    """
    programs = {role: one for role, one in manifest.programs.items() if role != "infer_tflite"}
    others = {name: content for name, content in members.items() if name != FILE}
    without = msgspec.structs.replace(manifest, programs=programs)
    template = members.get(TEMPLATE)
    if template is None:
        return without, others, "no form for LiteRT: the bundle has no template of one"
    if find_spec("ai_edge_quantizer") is None:
        return without, others, "no form for LiteRT: pip install 'marram[cloud-tflite]'"
    from marram_cloud.litert.choosing import best
    from marram_cloud.litert.template import filled, wanted
    from marram_cloud.litert.tensors import renamed

    predict = members[manifest.programs["predict"].file]
    shape = (len(manifest.channels), manifest.length)
    try:
        program = filled(template, predict, parameters)
        given = renamed(program, predict, parameters, ranges, shape)
        taken, told = best(program, shape, windows, wanted(template), given)
    except CompressionError as error:
        return without, others, f"no form for LiteRT: {error}"
    form = msgspec.structs.replace(manifest.programs["infer"], file=FILE, runtime="tflite")
    made = msgspec.structs.replace(without, programs={**programs, "infer_tflite": form})
    return made, {**others, FILE: taken.content}, told
