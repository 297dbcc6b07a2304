"""A new bundle out of an old one: other parameters, the int8 programs made from them, a new version."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import msgspec
import numpy as np
from marram.bundle.file import PARAMETERS, Bundle, encode, encode_parameters
from marram.bundle.manifest import Manifest
from numpy.typing import NDArray

from marram_cloud.compression.bound import keep_float
from marram_cloud.compression.programs import int8_programs, kept_float
from marram_cloud.compression.quantise import Ranges
from marram_cloud.litert.forms import TEMPLATE, with_form
from marram_cloud.trees.bundle import with_forest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rebuilt:
    """content: the bundle's bytes. tflite: what became of its form for LiteRT."""

    content: bytes
    tflite: str


def rebuild(
    bundle: Bundle,
    parameters: NDArray[np.float32],
    ranges: Ranges | None,
    windows: NDArray[np.float32] | None,
    version: str,
    metrics: dict[str, float],
    labels: NDArray[np.int64] | None = None,
) -> Rebuilt:
    """The new bundle. ranges: of the activations, for int8; None for a forest, which has no int8.

    windows: to judge int8 by, and for the ranges of what LiteRT's form has more: without them the layers that
    are int8 in ``bundle`` are. labels: of the windows. metrics go into the model card beside what is there.
    """
    manifest = bundle.manifest
    if ranges is None:
        members, told = with_forest(manifest, bundle.members, parameters), "none: trees have no such form"
    else:
        manifest, members, told = _with_int8(bundle, parameters, ranges, windows, labels)
    card = msgspec.structs.replace(manifest.card, metrics={**manifest.card.metrics, **metrics})
    return Rebuilt(encode(msgspec.structs.replace(manifest, version=version, card=card), members), told)


def _with_int8(
    bundle: Bundle, parameters: NDArray[np.float32], ranges: Ranges, windows: NDArray[np.float32] | None,
    labels: NDArray[np.int64] | None,
) -> tuple[Manifest, dict[str, bytes], str]:  # fmt: skip
    manifest = bundle.manifest
    predict = bundle.members[manifest.programs["predict"].file]
    members = {**bundle.members, PARAMETERS: encode_parameters(manifest, parameters)}
    float_layers = kept_float(bundle, parameters)
    if windows is not None:
        kept = keep_float(predict, parameters, ranges, bundle.features(windows), labels, float_layers)
        log.info("infer.onnx: %s", kept)
        float_layers = kept.layers
    int8 = int8_programs(predict, parameters, ranges, float_layers)
    manifest, members = int8.put_into(manifest, members)
    manifest, members, told = with_form(manifest, members, parameters, ranges, windows)
    members.pop(TEMPLATE, None)
    return manifest, members, told
