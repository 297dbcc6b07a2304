"""The one file that runs where TensorFlow is installed: it imports nothing of Marram.

``python keras_convert.py FOLDER``: ``model.keras`` becomes ``float.tflite``, the function x -> outputs of a
bundle's ``infer`` with ``about.json``'s task and window, for one window at a time; ``said.json`` tells what
was made of the model's input and output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Tensor = Any
Outputs = Callable[[Tensor], dict[str, Tensor]]


class UnfitError(Exception):
    """The model does not fit the project."""


@dataclass(frozen=True)
class Layout:
    """How the model takes a window. axes: for people. turn: windows (n, channels, length) -> its input.
    channels: which axis of that they are; None where there is one channel and no axis.
    """

    axes: str
    turn: Callable[[Tensor], Tensor]
    channels: int | None


def main(folder: Path) -> None:
    about = json.loads((folder / "about.json").read_text())
    channels, length = about["channels"], about["length"]
    model = keras.models.load_model(folder / "model.keras", compile=False)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UnfitError(f"it has {len(model.inputs)} inputs and {len(model.outputs)} outputs, not one each")
    layout = _layout(tuple(model.inputs[0].shape), channels, length)
    if about["task"] == "classify":
        gives, outputs = _classify(model, layout, about["labels"], np.load(folder / "windows.npy"))
    else:
        gives, outputs = _reconstruct(model, layout)
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = tf.TensorSpec((1, channels, length), tf.float32, name="x")
    archive.add_endpoint("serving_default", outputs, input_signature=[signature])
    archive.write_out(str(folder / "saved"), verbose=False)
    made = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved")).convert()
    (folder / "float.tflite").write_bytes(made)
    (folder / "said.json").write_text(json.dumps({"takes": layout.axes, "gives": gives}))


def _layout(shape: tuple[int | None, ...], channels: int, length: int) -> Layout:
    sizes = shape[1:]
    if len(sizes) == 2 and sizes[0] in (None, length) and sizes[1] == channels:
        return Layout("(length, channels)", lambda x: tf.transpose(x, (0, 2, 1)), 2)
    if len(sizes) == 2 and sizes[0] == channels and sizes[1] in (None, length):
        return Layout("(channels, length)", lambda x: x, 1)
    if len(sizes) == 3 and sizes[0] and sizes[1] and sizes[0] * sizes[1] == length and sizes[2] == channels:
        turn = lambda x: tf.reshape(tf.transpose(x, (0, 2, 1)), (-1, *sizes))  # noqa: E731
        return Layout("(height, width, channels)", turn, 3)
    if len(sizes) == 1 and channels == 1 and sizes[0] in (None, length):
        return Layout("(length)", lambda x: x[:, 0], None)
    raise UnfitError(
        f"its input has the shape {shape}; for {channels} channels of {length} samples it should be "
        f"(None, {length}, {channels}), (None, {channels}, {length}), or (None, height, width, {channels}) "
        f"with height times width {length}"
    )


def _classify(model: Any, layout: Layout, labels: int, windows: Any) -> tuple[str, Outputs]:  # noqa: ANN401
    """(what it gives, x -> probabilities). One score for two labels is the second's."""
    said = model(layout.turn(tf.constant(windows)), training=False).numpy()
    single = said.shape[1:] == (1,) and labels == 2
    if said.shape[1:] != (labels,) and not single:
        raise UnfitError(f"it gives {said.shape[1:]} for a window; there are {labels} labels")
    sums = np.ones(1) if single else said.sum(axis=1)
    logits = bool(((said < 0) | (said > 1)).any()) or not np.allclose(sums, 1, atol=1e-3)

    def scores(x: Tensor) -> dict[str, Tensor]:
        found = model(layout.turn(x), training=False)
        if single:
            second = tf.sigmoid(found) if logits else found
            return {"scores": tf.concat([1 - second, second], axis=1)}
        return {"scores": tf.nn.softmax(found) if logits else found}

    squash = "a sigmoid" if single else "a softmax"
    return f"logits, which {squash} is put behind" if logits else "probabilities", scores


def _reconstruct(model: Any, layout: Layout) -> tuple[str, Outputs]:  # noqa: ANN401
    """(what it gives, x -> mean squared errors of the window and of its channels)."""
    taken, given = tuple(model.inputs[0].shape[1:]), tuple(model.outputs[0].shape[1:])
    if taken != given:
        raise UnfitError(f"it should give its input made anew, {taken} for a window; it gives {given}")

    def scores(x: Tensor) -> dict[str, Tensor]:
        window = layout.turn(x)
        error = tf.square(model(window, training=False) - window)
        others = [axis for axis in range(1, len(error.shape)) if axis != layout.channels]
        by_channel = tf.reshape(tf.reduce_mean(error, axis=others), (-1, x.shape[1]))
        return {"score": tf.reduce_mean(by_channel, axis=1), "channel_scores": by_channel}

    return "its input made anew", scores


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except UnfitError as error:
        sys.exit(str(error))
