"""int8 for LiteRT: each kind stays close to fp32, and is in int8 as far as it says."""

import numpy as np
import pytest
from marram.programs.program import load
from marram_cloud.compression.errors import CompressionError
from marram_cloud.litert import flatfile
from marram_cloud.litert.quantise import METHODS, difference, in_float, quantise
from marram_cloud.litert.tensors import measured

from tests.support import tflite
from tests.support.windows import shoulder_windows

WINDOWS = shoulder_windows(1).values[:200]
WEIGHTS = np.random.default_rng(0).normal(size=(7, 600)).astype(np.float32) / 100
EXACT = tflite.linear(WEIGHTS, (1, 6, 100))
RANGES = measured(EXACT, WINDOWS[:100])


@pytest.mark.parametrize("method", METHODS)
def test_each_kind_is_near_fp32_on_windows_it_was_not_made_with(method):
    coarse = quantise(EXACT, method, RANGES)
    assert difference(load(EXACT, "tflite"), load(coarse, "tflite"), WINDOWS[100:]) < 0.05
    assert len(coarse) < len(EXACT) / 2


@pytest.mark.parametrize(
    ("method", "floats"),
    [
        ("dynamic", ("FULLY_CONNECTED", "SOFTMAX")),
        ("static", ("SOFTMAX",)),
        ("integer", ("SOFTMAX",)),
        ("full-integer", ()),
    ],
)
def test_what_stays_in_float_is_told(method, floats):
    assert in_float(quantise(EXACT, method, RANGES)) == floats


def test_full_integer_takes_and_gives_int8():
    model = flatfile.read(quantise(EXACT, "full-integer", RANGES))
    graph = model.subgraphs[0]
    assert flatfile.FLOAT32 not in {graph.tensors[one].type for one in (*graph.inputs, *graph.outputs)}


def test_a_range_that_nobody_measured_is_told():
    with pytest.raises(CompressionError, match=r"the ranges of 1 of 2 tensors are not known \(logits"):
        quantise(EXACT, "static", {"x": RANGES["x"]})


def test_the_range_of_a_tensor_is_what_all_windows_reach():
    """One window of a hundred counts: a mean over windows would cut it off."""
    many = np.concatenate([np.zeros((99, 6, 100), np.float32), WINDOWS[:1]])
    assert measured(EXACT, many)["x"] == (min(0, WINDOWS[0].min()), max(0, WINDOWS[0].max()))
