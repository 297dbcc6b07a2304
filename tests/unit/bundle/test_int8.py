"""A manifest's int8 that does not fit calibrate.onnx is an error with a reason, whatever it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.bundle.int8 import Int8Bias, Int8Layout, Int8Weight, int8_arrays
from marram.errors import BundleError

TENSORS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32), "s": np.float32(1)}
NAMES = st.sampled_from(["w", "b", "s", "x", "nothing", ""])
LAYOUTS = st.builds(
    Int8Layout,
    st.lists(NAMES, max_size=3).map(tuple),
    st.lists(NAMES, max_size=3).map(tuple),
    st.sampled_from(["int8", "uint8"]),
    st.lists(st.builds(Int8Weight, NAMES, st.none() | st.integers(-5, 5), st.booleans()), max_size=2).map(
        tuple
    ),
    st.lists(st.builds(Int8Bias, NAMES, NAMES, NAMES, NAMES), max_size=2).map(tuple),
    st.lists(NAMES, max_size=2).map(tuple),
)


@given(LAYOUTS, st.lists(st.floats(width=32), min_size=2, max_size=2))
def test_any_layout_gives_arrays_or_a_reason(layout, ends):
    try:
        found = int8_arrays(layout, TENSORS, np.float32(ends[:1]), np.float32(ends[1:]))
    except BundleError as error:
        assert str(error)
        return
    assert all(np.isfinite(array).all() for array in found.values())


@pytest.mark.parametrize(("low", "high"), [(np.nan, 1), (0, np.inf), (2, 1)])
def test_what_is_no_range_is_named(low, high):
    with pytest.raises(BundleError, match=r"x: .* is no range"):
        int8_arrays(Int8Layout(("x",), ("x",)), {}, np.float32([low]), np.float32([high]))


def test_a_tensor_that_is_not_finite_is_named():
    layout = Int8Layout((), (), "uint8", (Int8Weight("w", 0),))
    with pytest.raises(BundleError, match="w: holds NaN"):
        int8_arrays(layout, {"w": np.full((2, 2), np.nan, np.float32)}, np.zeros(0), np.zeros(0))
