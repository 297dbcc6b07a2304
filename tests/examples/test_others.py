"""Other people's models run from a few lines of YAML, and compute what their own code does.

The models are in wheels: `make tflite` installs them into build/others and runs this.
"""

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from marram.bundle.bare import open_model
from marram.config.load import load
from marram.config.schema import Agent
from marram.inspection.inspect import inspect
from marram.programs.program import ProgramOptions

from examples.others.prepare import frames, image, sound

ROOT = Path(__file__).parents[2]
OTHERS = ROOT / "build" / "others"
pytestmark = pytest.mark.skipif(
    not os.environ.get("MARRAM_TFLITE") or not OTHERS.exists(),
    reason="make tflite installs these models, 28 MB of wheels",
)


def opened(name):
    """(the program, the path of its model)."""
    model = load(ROOT / "examples" / "others" / f"{name}.yaml", Agent).model
    bundle = open_model(model.file, model.description)
    return bundle.program("infer", ProgramOptions()), model.file


def test_the_state_of_a_voice_detector_is_fed_back_window_by_window():
    program, file = opened("speech")
    samples = sound()
    starts = range(0, len(samples) - 576, 512)
    x = np.stack([samples[start : start + 576] for start in starts])
    found = np.concatenate([program(x=part[:, None])["scores"] for part in np.array_split(x, 7)])[:, 1]
    session = onnxruntime.InferenceSession(file)
    state, expected = np.zeros((2, 1, 128), np.float32), []
    for window in x:
        given = {"input": window[None], "state": state, "sr": np.array(16000)}
        score, state = session.run(None, given)
        expected.append(score[0, 0])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.max() > found[: len(found) // 4].max()


def test_a_word_on_its_head_is_told_from_one_that_stands():
    program, _ = opened("upright")
    x = np.stack([image(upside_down).reshape(3, -1) for upside_down in (False, True, True, False)])
    assert program(x=x)["scores"].argmax(axis=1).tolist() == [0, 1, 1, 0]


def test_a_streaming_tflite_model_keeps_its_own_state():
    from ai_edge_litert.interpreter import Interpreter

    program, file = opened("wake-word")
    x = frames(60).reshape(40, 20, 3).transpose(1, 0, 2)
    found = program(x=x)["scores"][:, 1]
    interpreter = Interpreter(model_path=str(file))
    interpreter.allocate_tensors()
    (taken,), (given) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = taken["quantization"]
    expected = []
    for window in x:
        stored = np.clip(np.rint(window.T[None] / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(taken["index"], stored)
        interpreter.invoke()
        low, high = given[0]["quantization"]
        expected.append((float(interpreter.get_tensor(given[0]["index"])[0, 0]) - high) * low)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_inspection_finds_the_state_and_its_way_back():
    text = inspect(OTHERS / "silero_vad" / "data" / "silero_vad_16k_op15.onnx")
    assert "state: {state: stateN}" in text and "constants: {sr: 0}" in text
