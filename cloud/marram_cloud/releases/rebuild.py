"""A new bundle out of an old one: other parameters, the int8 programs made from them, a new version."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from marram.bundle.file import PARAMETERS, Bundle, encode, encode_parameters
from numpy.typing import NDArray

from marram_cloud.compression.programs import int8_programs, kept_float
from marram_cloud.compression.quantise import Ranges
from marram_cloud.litert.forms import TEMPLATE, with_form


@dataclass(frozen=True)
class Rebuilt:
    """content: the bundle's bytes. tflite: what became of its form for LiteRT."""

    content: bytes
    tflite: str


def rebuild(
    bundle: Bundle,
    parameters: NDArray[np.float32],
    ranges: Ranges,
    windows: NDArray[np.float32] | None,
    version: str,
    metrics: dict[str, float],
) -> Rebuilt:
    """The new bundle. ranges: of the activations, for int8. windows: for the ranges of what LiteRT's
    form has more. metrics go into the model card beside those that are there."""
    manifest = bundle.manifest
    predict = bundle.members[manifest.programs["predict"].file]
    members = {**bundle.members, PARAMETERS: encode_parameters(manifest, parameters)}
    int8 = int8_programs(predict, parameters, ranges, kept_float(bundle, parameters))
    manifest, members = int8.put_into(manifest, members)
    manifest, members, told = with_form(manifest, members, parameters, ranges, windows)
    members.pop(TEMPLATE, None)
    card = msgspec.structs.replace(manifest.card, metrics={**manifest.card.metrics, **metrics})
    return Rebuilt(encode(msgspec.structs.replace(manifest, version=version, card=card), members), told)
