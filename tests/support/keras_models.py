"""Runs where Keras is installed: ``python keras_models.py FOLDER`` writes small models, each NAME.keras, and
what each gives for ``windows.npy``, float32 (n, 6, 100), as NAME.npy. It imports nothing of Marram.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

LABELS = 7


def models():
    """By name: (model, windows -> its input)."""
    sequence = [
        layers.Input((100, 6)),
        layers.Conv1D(16, 5, activation="relu"),
        layers.BatchNormalization(),
        layers.MaxPooling1D(2),
        layers.Conv1D(16, 3, activation="relu"),
        layers.GlobalAveragePooling1D(),
    ]
    turned = lambda windows: windows.transpose(0, 2, 1)  # noqa: E731
    return {
        "sequence": ([*sequence, layers.Dense(LABELS, activation="softmax")], turned),
        "logits": ([*sequence, layers.Dense(LABELS)], turned),
        "one-score": ([*sequence, layers.Dense(1, activation="sigmoid")], turned),
        "channels-first": (
            [layers.Input((6, 100)), layers.Flatten(), layers.Dense(LABELS, activation="softmax")],
            lambda windows: windows,
        ),
        "picture": (
            [
                layers.Input((10, 10, 6)),
                layers.DepthwiseConv2D(3, padding="same", activation="relu"),
                layers.Conv2D(12, 1, activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(LABELS, activation="softmax"),
            ],
            lambda windows: windows.transpose(0, 2, 1).reshape(-1, 10, 10, 6),
        ),
        "autoencoder": (
            [
                layers.Input((100, 6)),
                layers.Conv1D(8, 5, strides=2, padding="same", activation="relu"),
                layers.Conv1DTranspose(6, 5, strides=2, padding="same"),
            ],
            turned,
        ),
        "twice-as-long": ([layers.Input((200, 6)), layers.Flatten(), layers.Dense(LABELS)], None),
    }


def main(folder):
    windows = np.load(folder / "windows.npy")
    for name, (parts, turn) in models().items():
        keras.utils.set_random_seed(1)
        model = keras.Sequential(parts)
        model.save(folder / f"{name}.keras")
        if turn is not None:
            np.save(folder / f"{name}.npy", model.predict(turn(windows), verbose=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
