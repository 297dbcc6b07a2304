"""What every runtime does: one function as ONNX, as TFLite, and as TFLite in int8.

tflite-runtime, whose environment has nothing that could make the files, is given them: see
``test_tflite_runtime``.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from marram.errors import ProgramError
from marram.programs.program import ProgramOptions, load

GIVEN = os.environ.get("MARRAM_CONTRACT_FILES")
RUNTIMES = {
    "onnx": ("onnx", 1e-5),
    "tflite": ("tflite", 1e-5),
    "int8": ("tflite", 0.02),
    "rows": ("tflite", 1e-5),
    "int8 rows": ("tflite", 0.02),
}


def files():
    """The file of each kind."""
    if GIVEN:
        return {path.name: path.read_bytes() for path in Path(GIVEN).iterdir()}
    from tests.support import models, tflite

    return {
        "onnx": models.classifier(),
        "tflite": tflite.classifier(),
        "int8": tflite.classifier(int8=True),
        "rows": tflite.classifier((1, 2, 4)),
        "int8 rows": tflite.classifier((1, 2, 4), int8=True),
    }


KINDS = {
    name: (runtime, content, tolerance)
    for name, content in files().items()
    for runtime, tolerance in [RUNTIMES[name]]
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def expected(x):
    mean = x.mean(axis=(1, 2))
    scores = np.exp(np.stack([-mean, mean], axis=1))
    return scores / scores.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("source", ["bytes", "file"])
def test_it_tells_its_tensors_and_runs_any_batch(kind, source, tmp_path):
    runtime, content, tolerance = kind
    (tmp_path / "model").write_bytes(content)
    program = load(content if source == "bytes" else tmp_path / "model", runtime, ProgramOptions(threads=2))
    (x,), (scores,) = program.inputs, program.outputs
    assert (x.name, x.dtype, x.shape[1:]) == ("x", "float32", (2, 4))
    assert (scores.name, scores.dtype, scores.shape[1:]) == ("scores", "float32", (2,))
    assert isinstance(x.shape[0], str) and isinstance(scores.shape[0], str)
    rng = np.random.default_rng(1)
    for batch in (1, 7, 7, 3, 1):
        values = rng.normal(size=(batch, 2, 4)).astype(np.float32)
        found = program(x=values)["scores"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected(values), atol=tolerance)


def test_what_it_gave_stays_when_it_is_called_again(kind):
    program = load(kind[1], kind[0])
    first = program(x=np.ones((1, 2, 4), np.float32))["scores"]
    before = first.copy()
    program(x=-np.ones((1, 2, 4), np.float32))
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"x": np.zeros((1, 3, 4), np.float32)},
        {"x": np.zeros((1, 8), np.float32)},
        {"x": np.zeros((1, 2, 4), np.float64)},
        {"x": np.zeros((1, 2, 4), np.float32), "y": np.zeros(1, np.float32)},
    ],
    ids=["nothing", "a channel too many", "an axis less", "float64", "one too many"],
)
def test_arrays_that_do_not_fit_are_refused_and_the_next_ones_are_taken(kind, arrays):
    program = load(kind[1], kind[0])
    with pytest.raises(ProgramError, match="refused to run the program"):
        program(**arrays)
    assert program(x=np.zeros((2, 2, 4), np.float32))["scores"].shape == (2, 2)


# tflite-runtime does not verify a file before it reads it: half of one ends the process, which is why models
# are tried in children.
DAMAGES = ["empty", "garbage", "missing"] if GIVEN else ["empty", "garbage", "half", "missing"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_none_is_refused(kind, damage, tmp_path):
    runtime, content, _ = kind
    file = tmp_path / "model"
    if damage != "missing":
        file.write_bytes(
            {"empty": b"", "garbage": b"garbage" * 9, "half": content[: len(content) // 2]}[damage]
        )
    with pytest.raises(ProgramError, match="cannot load"):
        load(file, runtime)


@pytest.mark.parametrize("name", ["int8", "int8 rows"])
def test_values_beyond_the_range_of_int8_are_taken_as_its_ends(name):
    program = load(KINDS[name][1], "tflite")
    scores = program(x=np.full((1, 2, 4), 1e9, np.float32))["scores"]
    np.testing.assert_allclose(scores, expected(np.full((1, 2, 4), 124 / 32)), atol=0.02)
