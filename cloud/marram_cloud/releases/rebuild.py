"""A new bundle out of an old one: other parameters, the int8 programs made from them, a new version."""

from __future__ import annotations

import logging

import msgspec
import numpy as np
from marram.bundle.file import PARAMETERS, Bundle, encode, encode_parameters
from numpy.typing import NDArray

from marram_cloud.compression.quantise import quantise
from marram_cloud.compression.ranges import calibrate
from marram_cloud.litert.forms import TEMPLATE, with_form

log = logging.getLogger(__name__)


def rebuild(
    bundle: Bundle,
    parameters: NDArray[np.float32],
    calibration: NDArray[np.float32],
    version: str,
    metrics: dict[str, float],
) -> bytes:
    """The new bundle's bytes. metrics go into the model card beside those that are there."""
    manifest = bundle.manifest
    predict = bundle.members[manifest.programs["predict"].file]
    ranges = calibrate(predict, parameters, calibration)
    members = {
        **bundle.members,
        PARAMETERS: encode_parameters(manifest, parameters),
        manifest.programs["infer"].file: quantise(predict, parameters, ranges),
    }
    manifest, members, told = with_form(manifest, members, parameters, calibration)
    log.info("infer.tflite: %s", told)
    members.pop(TEMPLATE, None)
    card = msgspec.structs.replace(manifest.card, metrics={**manifest.card.metrics, **metrics})
    return encode(msgspec.structs.replace(manifest, version=version, card=card), members)
