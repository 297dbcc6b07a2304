"""Which ranges a release is quantised with: those that devices told, or those of the calibration windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from marram.bundle.file import Bundle
from numpy.typing import NDArray

from marram_cloud.compression.fleet import combine
from marram_cloud.compression.quantise import Ranges
from marram_cloud.compression.ranges import calibrate
from marram_cloud.ledger.ledger import Ledger
from marram_cloud.releases.calibration import Calibration, CalibrationError


@dataclass(frozen=True)
class Measured:
    """ranges: by activation; None for a forest, which has none. source: where they come from, for people."""

    ranges: Ranges | None
    source: str


@dataclass(frozen=True)
class FromFleet:
    """devices: so many must have told their ranges. trim: part of them whose word does not count."""

    devices: int
    trim: float

    def measure(
        self,
        ledger: Ledger,
        bundle: Bundle,
        versions: Sequence[int],
        parameters: NDArray[np.float32],
        calibration: Calibration | None,
    ) -> Measured:
        """For the mean ``parameters`` of these versions. Raises CalibrationError where there is neither."""
        manifest = bundle.manifest
        if manifest.forest:
            return Measured(None, "")
        program = manifest.programs.get("calibrate")
        if program is None or manifest.int8 is None:
            told, why = {}, "the bundle has no calibrate program"
        else:
            told = ledger.ranges(versions, bytes.fromhex(manifest.members[program.file]))
            why = f"{len(told)} devices have told their ranges, {self.devices} are needed"
            if len(told) >= self.devices:
                ranges = combine(told, manifest.int8.activations, self.trim)
                return Measured(ranges, f"the ranges that {len(told)} devices measured")
        if calibration is None:
            raise CalibrationError(
                f"there is nothing to quantise with: {why}, and releases.calibration names no windows"
            )
        predict = bundle.members[manifest.programs["predict"].file]
        ranges = calibrate(predict, parameters, bundle.features(calibration.windows))
        return Measured(ranges, f"{len(calibration.windows)} calibration windows ({why})")
