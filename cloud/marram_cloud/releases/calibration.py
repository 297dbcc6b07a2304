"""The windows on which int8 ranges are measured: ``windows`` of a project's ``calibration.npz``."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from marram.errors import MarramError
from numpy.typing import NDArray

# What numpy and zipfile raise for what is damaged, encrypted, packed in another way, or no array.
_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


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
        with path.open("rb") as file:
            whole = zipfile.is_zipfile(file)
    except OSError as error:
        raise CalibrationError(
            f"{path}: cannot be read: {error.strerror}; numpy.savez(path, windows=...) writes one"
        ) from error
    if not whole:
        raise CalibrationError(f"{path}: is no whole .npz: numpy.savez(path, windows=...) writes one")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "windows" not in arrays:
                raise CalibrationError(
                    f"{path}: has no array 'windows'; it has {', '.join(arrays.files) or 'none'}"
                )
            windows = _numbers(np.asarray(arrays["windows"]))
            labels = np.asarray(arrays["labels"]) if "labels" in arrays else None
    except _UNREADABLE as error:
        raise CalibrationError(f"{path}: windows and labels should be arrays of numbers: {error}") from error
    if windows.ndim != 3 or windows.shape[1:] != (channels, length) or len(windows) == 0:
        raise CalibrationError(
            f"{path}: windows have shape {windows.shape}, expected (n, {channels}, {length}) with n above 0"
        )
    if not np.isfinite(windows).all():
        raise CalibrationError(f"{path}: windows hold NaN, infinity or more than a float32 can hold")
    if labels is not None and (labels.shape != (len(windows),) or labels.dtype.kind not in "iub"):
        raise CalibrationError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}, expected whole numbers of shape "
            f"({len(windows)},)"
        )
    return Calibration(windows, None if labels is None else labels.astype(np.int64))


def _numbers(array: NDArray[Any]) -> NDArray[np.float32]:
    """Raises ValueError where they are none."""
    if array.dtype.kind not in "iubf":
        raise ValueError(f"'windows' holds {array.dtype}")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)
