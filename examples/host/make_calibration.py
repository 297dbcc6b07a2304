"""Windows of an imagined machine, from idle to busy, on which the int8 ranges are measured."""

from pathlib import Path

import numpy as np

CHANNELS, LENGTH, COUNT = 9, 16, 128


def main() -> None:
    """Write calibration.npz."""
    random = np.random.default_rng(0)
    busy = random.random((COUNT, 1, 1))
    noise = random.random((COUNT, CHANNELS, LENGTH))
    full = np.array([100, 100, 50, 8, 1e8, 1e8, 1e7, 1e7, 80.0]).reshape(1, CHANNELS, 1)
    windows = (full * busy**2 * (0.8 + 0.4 * noise)).clip(0, full)
    np.savez_compressed(Path(__file__).parent / "calibration.npz", windows=windows.astype(np.float32))


if __name__ == "__main__":
    main()
