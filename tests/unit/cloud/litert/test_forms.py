"""A release carries its form for LiteRT, made from the template of its bundle; or none, and it says why."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from marram.bundle.file import Bundle, encode, parse
from marram.programs.program import load
from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.ranges import measure
from marram_cloud.litert import choosing, forms
from marram_cloud.litert.forms import FILE, TEMPLATE
from marram_cloud.litert.template import filled, make, probe
from marram_cloud.releases.rebuild import rebuild

from tests.support import tflite
from tests.support.windows import SHOULDER, shoulder_windows
from tests.support.windows import bundle as bundle_of

SOURCE = bundle_of(SHOULDER)
REAL_TEMPLATE = Path(__file__).parents[3] / "support" / "shoulder.template.tflite"
WINDOWS = shoulder_windows(1).values[:200]


def convert(parameters, signed=True):
    """Stands for a converter: a linear program of the first parameters."""
    return tflite.linear(parameters[: 7 * 600].reshape(7, 600), (1, 6, 100), signed=signed)


def template(wanted="dynamic"):
    probes = [probe(SOURCE.manifest.parameter_count, seed) for seed in (1, 2)]
    names = {"inputs": ["x"], "outputs": ["scores"]}
    return make(b"", probes, [convert(one) for one in probes], names, wanted)


def with_template(**options):
    members = {**SOURCE.members, TEMPLATE: template(**options)}
    return Bundle(SOURCE.manifest, members, "", "shoulder")


@cache
def ranges():
    return measure(SOURCE.members["predict.onnx"], SOURCE.parameters() * np.float32(2), WINDOWS[:50])


def rebuilt(bundle, parameters, version):
    """A release of the bundle."""
    return parse(rebuild(bundle, parameters, ranges(), WINDOWS, version, {}).content)


@cache
def first_release():
    return rebuilt(with_template(), SOURCE.parameters(), "1")


def test_a_release_carries_both_forms_of_the_same_parameters_and_no_template():
    parameters = SOURCE.parameters() * np.float32(2)
    made = rebuilt(with_template(), parameters, "1")
    assert set(made.manifest.programs) == {*SOURCE.manifest.programs, "infer_tflite"}
    assert TEMPLATE not in made.members
    (expected,) = load(convert(parameters, signed=False), "tflite")(x=WINDOWS).values()
    found = made.program("infer_tflite")(x=WINDOWS)["scores"]
    assert np.abs(found - expected).mean() < 0.02


def test_a_release_is_quantised_as_the_workshop_was_asked_to():
    source = with_template(wanted="full-integer")
    assert "int8 (full-integer)" in rebuild(source, SOURCE.parameters(), ranges(), WINDOWS, "1", {}).tflite


def test_without_any_window_a_release_has_both_forms_by_what_devices_told():
    """The real template of the shoulder model, whose every activation is known again."""
    members = {**SOURCE.members, TEMPLATE: REAL_TEMPLATE.read_bytes()}
    learnt = SOURCE.parameters() * np.float32(1.1)
    told = measure(SOURCE.members["predict.onnx"], learnt, WINDOWS)
    made = rebuild(Bundle(SOURCE.manifest, members, "", "shoulder"), learnt, told, None, "1", {})
    assert "not compared with fp32" in made.tflite and "static" in made.tflite
    release = parse(made.content)
    exact = load(release.members["predict.onnx"], "onnx")(parameters=learnt, x=WINDOWS)["scores"]
    found = release.program("infer_tflite")(x=WINDOWS)["scores"]
    assert np.abs(found - exact).mean() / exact.std() < choosing.BOUND


@pytest.mark.parametrize("lacking", ["template", "quantiser", "bound"])
def test_a_form_with_other_parameters_inside_is_never_released(monkeypatch, lacking):
    """Where the new form cannot be made the release has none, rather than the old one."""
    old = first_release()
    members = old.members if lacking == "template" else {**old.members, TEMPLATE: template()}
    bundle = Bundle(old.manifest, members, "", "shoulder")
    if lacking == "quantiser":
        monkeypatch.setattr(forms, "find_spec", lambda name: None)
    if lacking == "bound":
        monkeypatch.setattr(choosing, "BOUND", -1.0)
    made = rebuilt(bundle, SOURCE.parameters(), "2")
    assert "infer_tflite" not in made.manifest.programs and FILE not in made.members


def test_a_damaged_template_is_told():
    with pytest.raises(CompressionError, match="no whole TFLite file"):
        filled(b"garbage" * 10, b"", SOURCE.parameters())


def test_the_bundle_with_the_template_is_a_bundle():
    bundle = with_template()
    assert parse(encode(bundle.manifest, bundle.members)).members[TEMPLATE] == template()
