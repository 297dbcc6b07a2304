"""The windows on which int8 ranges are measured: ``windows`` of a project's ``calibration.npz``."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from marram.errors import MarramError
from numpy.typing import NDArray


class CalibrationError(MarramError):
    """The calibration windows cannot be used."""


@dataclass(frozen=True)
class Calibration:
    """windows: float32 (n, channels, length), finite, n above 0. labels: index of each (n,), if any."""

    windows: NDArray[np.float32]
    labels: NDArray[np.int64] | None = None


def read_calibration(path: Path, channels: int, length: int) -> Calibration:
    """``windows``, and ``labels`` where they are there. Raises CalibrationError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            windows: NDArray[np.float32] = arrays["windows"].astype(np.float32)
            labels: NDArray[np.int64] | None = (
                arrays["labels"].astype(np.int64, casting="same_kind") if "labels" in arrays else None
            )
    except (OSError, KeyError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"{path}: should be an .npz with an array 'windows': {error}") from error
    if windows.ndim != 3 or windows.shape[1:] != (channels, length) or len(windows) == 0:
        raise CalibrationError(
            f"{path}: windows have shape {windows.shape}, expected (n, {channels}, {length}) with n above 0"
        )
    if not np.isfinite(windows).all():
        raise CalibrationError(f"{path}: windows hold NaN or infinity")
    if labels is not None and labels.shape != (len(windows),):
        raise CalibrationError(f"{path}: labels have shape {labels.shape}, expected ({len(windows)},)")
    return Calibration(windows, labels)
