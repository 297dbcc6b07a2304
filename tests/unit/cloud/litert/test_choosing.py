"""Which int8 form is taken for LiteRT, and what is told when there is none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.programs.program import load
from marram_cloud.compression.errors import CompressionError
from marram_cloud.litert import choosing
from marram_cloud.litert.choosing import BOUND, Form, best, chosen
from marram_cloud.litert.quantise import difference
from marram_cloud.litert.tensors import measured

from tests.support.windows import shoulder_windows
from tests.unit.cloud.litert.test_quantise import EXACT
from tests.unit.cloud.litert.test_tensors import NOISE, PROGRAM, SHAPE

TOLD = {"x": (-4.0, 4.0), "logits": (-9.0, 9.0)}


def form(method, size, us, far):
    return Form(b"0" * size, method, far, us)


SMALL = form("dynamic", 100, 50.0, 0.002)


@pytest.mark.parametrize(
    ("others", "taken"),
    [
        ([form("integer", 120, 20.0, 0.004)], "integer"),
        ([form("integer", 120, 45.0, 0.004)], "dynamic"),
        ([form("integer", 90, 60.0, 0.001)], "integer"),
        ([form("integer", 120, 20.0, 0.05)], "dynamic"),
    ],
    ids=["faster", "hardly faster", "as fast and smaller", "fast and far from fp32"],
)
def test_near_fp32_the_fastest_is_taken_and_of_those_the_smallest(others, taken):
    assert chosen([SMALL, *others], []).method == taken


def test_where_none_is_near_the_nearest_is_taken_within_the_bound():
    assert chosen([form("dynamic", 9, 9.0, 0.08), form("static", 5, 5.0, 0.09)], []).method == "dynamic"
    with pytest.raises(CompressionError, match=r"\(static\) differs from fp32 by 0.20 standard deviations"):
        chosen([form("dynamic", 9, 9.0, 0.3), form("static", 5, 5.0, 0.2)], [])


FORMS = st.builds(
    form,
    st.sampled_from(["dynamic", "static", "integer"]),
    st.integers(1, 50),
    st.floats(1.0, 1e4),
    st.one_of(st.floats(0.0, 0.3), st.just(np.inf), st.just(np.nan)),
)


@settings(deadline=None)
@given(st.lists(FORMS, min_size=1, max_size=4))
def test_nothing_further_than_the_bound_is_ever_taken(forms):
    try:
        assert chosen(forms, []).far <= BOUND
    except CompressionError:
        assert not min(one.far for one in forms) <= BOUND


def test_a_form_is_made_of_windows_and_compared_on_others():
    taken, told = best(PROGRAM, SHAPE, NOISE.repeat(20, axis=0))
    assert difference(load(PROGRAM, "tflite"), load(taken.content, "tflite"), NOISE) < BOUND
    others = {"dynamic", "static", "integer"} - {taken.method}
    assert f"int8 ({taken.method})" in told and "standard deviations from fp32" in told
    assert all(name in told.split("not taken: ")[1] for name in others)


def test_a_kind_may_be_asked_for_by_name():
    taken, told = best(PROGRAM, SHAPE, NOISE, "full-integer")
    assert "int8 (full-integer)" in told and "not taken" not in told
    assert load(taken.content, "tflite")(x=NOISE)["scores"].shape == (len(NOISE), 3)


def test_what_devices_told_is_enough_where_there_are_no_windows():
    """For the heavy layers; of other operators nobody has told ranges."""
    _, told = best(PROGRAM, SHAPE, None, "static", TOLD)
    assert "not compared with fp32" in told and "2 of its tensors have the ranges of infer.onnx" in told
    with pytest.raises(CompressionError, match="only calibration windows show them"):
        best(PROGRAM, SHAPE, None, "full-integer", TOLD)


def test_a_kind_that_ends_its_process_leaves_the_others(monkeypatch):
    make = choosing.quantise
    monkeypatch.setattr(
        choosing, "quantise", lambda *given: b"no TFLite" if given[1] == "dynamic" else make(*given)
    )
    _, told = best(PROGRAM, SHAPE, NOISE)
    assert "not taken: " in told and "dynamic: the program could not be measured" in told


def test_ranges_of_devices_stand_in_for_those_of_few_windows():
    """Windows that show little of what devices see; the devices told all of it."""
    real = shoulder_windows(1).values[:100]
    seen = measured(EXACT, real)
    assert seen["x"][1] > 1
    quiet = real * np.float32(0.1)
    narrow = choosing.quantise(EXACT, "static", measured(EXACT, quiet))
    told = choosing.quantise(
        EXACT, "static", {**measured(EXACT, quiet), "x": seen["x"], "logits": seen["logits"]}
    )
    exact = load(EXACT, "tflite")
    assert difference(exact, load(told, "tflite"), real) < difference(exact, load(narrow, "tflite"), real) / 2
