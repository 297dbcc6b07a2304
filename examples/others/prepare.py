"""What the examples here run on, in build/others: a sound, four images of a word, spectrogram frames.

All of it is made up: no recording of a person is needed to see the models run.
"""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[2] / "build" / "others"
HEIGHT, WIDTH = 48, 192


def sound(seconds: float = 3.0, rate: int = 16000) -> np.ndarray:
    """Silence, then something like a vowel: pulses of a voice through two resonances; float32 (n,)."""
    time = np.arange(int(seconds * rate)) / rate
    pitch = 120 + 20 * np.sin(2 * np.pi * 3 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(
        np.sin(k * phase) / k * (1 / (1 + ((k * 120 - formant) / 150) ** 2))
        for k in range(1, 30)
        for formant in (700, 1200, 2600)
    )
    syllables = np.clip(np.sin(2 * np.pi * 4 * time), 0, None)
    return (voice * syllables * (time > seconds / 3) * 0.3).astype(np.float32)


def image(upside_down: bool) -> np.ndarray:
    """The word MARRAM in black on white, float32 (3, 48, 192), from -1 to 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100)
    figure.text(0.5, 0.45, "MARRAM", fontsize=24, ha="center", va="center")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba(), np.float32)[:, :, :3].transpose(2, 0, 1) / 127.5 - 1
    return pixels[:, ::-1, ::-1] if upside_down else pixels


def frames(count: int = 300) -> np.ndarray:
    """Spectrogram frames of noise, float32 (40, count)."""
    return np.random.default_rng(0).uniform(0, 26, size=(40, count)).astype(np.float32)


def _write(name: str, names: list[str], values: np.ndarray) -> None:
    np.savetxt(FOLDER / name, values.T, "%.6g", ",", header=",".join(names), comments="")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    _write("sound.csv", ["sound"], sound()[None])
    images = [image(upside_down).reshape(3, -1) for upside_down in (False, True, False, True)]
    _write("images.csv", ["red", "green", "blue"], np.concatenate(images, axis=1))
    _write("frames.csv", [f"f{number}" for number in range(40)], frames())
