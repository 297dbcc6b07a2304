"""The windows on which int8 ranges are measured: ``windows`` of a project's ``calibration.npz``."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from marram.errors import MarramError
from numpy.typing import NDArray


class CalibrationError(MarramError):
    """The calibration windows cannot be used."""


def read_calibration(path: Path, channels: int, length: int) -> NDArray[np.float32]:
    """float32 (n, channels, length), n at least 1, finite. Raises CalibrationError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            windows: NDArray[np.float32] = arrays["windows"].astype(np.float32)
    except (OSError, KeyError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"{path}: should be an .npz with an array 'windows': {error}") from error
    if windows.ndim != 3 or windows.shape[1:] != (channels, length) or len(windows) == 0:
        raise CalibrationError(
            f"{path}: windows have shape {windows.shape}, expected (n, {channels}, {length}) with n above 0"
        )
    if not np.isfinite(windows).all():
        raise CalibrationError(f"{path}: windows hold NaN or infinity")
    return windows
