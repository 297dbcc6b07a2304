"""int8 for LiteRT stays close to fp32, and what does not is left out of a release."""

import numpy as np
import pytest
from marram.bundle.file import Bundle, encode, parse
from marram.programs.program import load
from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.ranges import calibrate
from marram_cloud.litert import forms
from marram_cloud.litert import quantise as room
from marram_cloud.litert.forms import FILE, TEMPLATE
from marram_cloud.litert.quantise import METHODS, difference, quantise
from marram_cloud.litert.template import filled, make, probe
from marram_cloud.releases.rebuild import rebuild

from tests.support import tflite
from tests.support.windows import SHOULDER, shoulder_windows
from tests.support.windows import bundle as bundle_of

SOURCE = bundle_of(SHOULDER)
WINDOWS = shoulder_windows(1).values[:200]


def convert(parameters, signed=True):
    """Stands for a converter: a linear program of the first parameters."""
    return tflite.linear(parameters[: 7 * 600].reshape(7, 600), (1, 6, 100), signed=signed)


def template():
    probes = [probe(SOURCE.manifest.parameter_count, seed) for seed in (1, 2)]
    names = {"inputs": ["x"], "outputs": ["scores"]}
    return make(b"", probes, [convert(one) for one in probes], names)


def with_template():
    return Bundle(SOURCE.manifest, {**SOURCE.members, TEMPLATE: template()}, "", "shoulder")


def rebuilt(bundle, parameters, version):
    """A release of the bundle."""
    ranges = calibrate(bundle.members["predict.onnx"], parameters, WINDOWS)
    return parse(rebuild(bundle, parameters, ranges, WINDOWS, version, {}))


@pytest.mark.parametrize("method", METHODS)
def test_both_ways_are_within_the_bound_of_fp32_on_windows_they_were_not_made_with(method):
    exact = filled(template(), b"", SOURCE.parameters())
    coarse = quantise(exact, WINDOWS[:100], method)
    assert difference(load(exact, "tflite"), load(coarse, "tflite"), WINDOWS[100:]) < room.BOUND
    assert len(coarse) < len(exact) / 2


def test_a_release_carries_both_forms_of_the_same_parameters_and_no_template():
    parameters = SOURCE.parameters() * np.float32(2)
    made = rebuilt(with_template(), parameters, "1")
    assert set(made.manifest.programs) == {*SOURCE.manifest.programs, "infer_tflite"}
    assert TEMPLATE not in made.members
    (expected,) = load(convert(parameters, signed=False), "tflite")(x=WINDOWS).values()
    found = made.program("infer_tflite")(x=WINDOWS)["scores"]
    assert np.abs(found - expected).mean() < 0.02


@pytest.mark.parametrize("lacking", ["template", "quantiser", "bound"])
def test_a_form_with_other_parameters_inside_is_never_released(monkeypatch, lacking):
    """Where the new form cannot be made the release has none, rather than the old one."""
    old = rebuilt(with_template(), SOURCE.parameters(), "1")
    members = old.members if lacking == "template" else {**old.members, TEMPLATE: template()}
    bundle = Bundle(old.manifest, members, "", "shoulder")
    if lacking == "quantiser":
        monkeypatch.setattr(forms, "find_spec", lambda name: None)
    if lacking == "bound":
        monkeypatch.setattr(room, "BOUND", -1.0)
    made = rebuilt(bundle, SOURCE.parameters(), "2")
    assert "infer_tflite" not in made.manifest.programs and FILE not in made.members


def test_a_damaged_template_is_told():
    with pytest.raises(CompressionError, match="no whole TFLite file"):
        filled(b"garbage" * 10, b"", SOURCE.parameters())


def test_the_bundle_with_the_template_is_a_bundle():
    bundle = with_template()
    assert parse(encode(bundle.manifest, bundle.members)).members[TEMPLATE] == template()
