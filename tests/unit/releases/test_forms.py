"""A bundle with a form for each runtime: the better one is found by measuring, once, and runs alone."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from marram.bundle.bare import open_model
from marram.bundle.file import encode, parse, read
from marram.children.child import ChildError
from marram.errors import BundleError, ProgramError
from marram.programs.program import ProgramOptions
from marram.releases import forms as rooms
from marram.releases.forms import Choices, Forms, Trier, better, possible
from marram.releases.gates import Measured

from tests.support import models, tflite
from tests.support.fleet_repository import Repository
from tests.support.processes import Process, eventually
from tests.support.releases import released, spoilt
from tests.support.training import filled_store
from tests.support.updates import SETTINGS, rig
from tests.support.windows import SHOULDER, shoulder_windows
from tests.support.windows import bundle as bundle_of
from tests.unit.bundle.test_bare import described

OPTIONS = ProgramOptions()
FAST = Measured(windows=64, cpu_us=10.0, memory=20 << 20)
SLOW = Measured(windows=64, cpu_us=20.0, memory=10 << 20)
BOTH = models.both_forms(models.classifier(), tflite.classifier())
DAMAGED = tflite.classifier()[:300]


def right(measured, part):
    return msgspec.structs.replace(measured, labelled=200, correct=int(part * 200))


@pytest.mark.parametrize(
    ("onnx", "lite", "chosen"),
    [
        (SLOW, FAST, "infer_tflite"),
        (FAST, SLOW, "infer"),
        (FAST, Measured(windows=64, cpu_us=10.5, memory=5 << 20), "infer_tflite"),
        (right(SLOW, 0.9), right(FAST, 0.8), "infer"),
        (right(SLOW, 0.9), right(FAST, 0.89), "infer_tflite"),
        (SLOW, Measured(windows=64, errors=1, cpu_us=1.0, problem="NaN"), "infer"),
        ("was ended by signal 11", SLOW, "infer_tflite"),
        ("no", "neither", None),
    ],
    ids=["faster", "faster onnx", "as fast, smaller", "more accurate", "hardly", "fails", "crashes", "none"],
)
def test_the_more_accurate_then_the_faster_then_the_smaller_form_runs(onnx, lite, chosen):
    role, why = better({"infer": onnx, "infer_tflite": lite})
    assert role == chosen
    if role is None or "signal" in str(onnx):
        assert str(onnx) in why
    else:
        assert why


@pytest.fixture
def at(tmp_path):
    """(a bundle's Forms for a file with this content, its file)."""

    def make(content, wanted="auto", options=OPTIONS):
        file = tmp_path / "model.marram"
        file.write_bytes(content)
        bundle = read(file)
        trier = Trier(bundle, 1 << 30, 0, 60.0)
        return Forms(Choices(tmp_path / "forms.json"), options, wanted, trier), bundle, file

    return make


def test_both_are_measured_once_and_the_choice_is_kept(at, monkeypatch):
    forms, bundle, file = at(BOTH)
    first = forms.load(bundle, file)
    assert first.runtime in ("onnx", "tflite")
    assert "measured here: " in first.why and "onnxruntime" in first.why and "LiteRT" in first.why

    def nothing(*args):
        raise ChildError("no child may be started now")

    monkeypatch.setattr(rooms, "Child", nothing)
    again = forms.load(bundle, file)
    assert (again.runtime, again.why) == (first.runtime, first.why)
    other = at(BOTH, options=ProgramOptions(threads=2))[0].load(bundle, file)
    assert other.why == "it could not be measured: no child may be started now"


def test_a_form_that_does_not_load_leaves_the_other_and_says_so(at):
    forms, bundle, file = at(models.both_forms(models.classifier(), DAMAGED))
    model = forms.load(bundle, file)
    assert model.runtime == "onnx"
    assert "LiteRT: " in model.why


def test_where_none_loads_both_reasons_are_told(at):
    forms, bundle, file = at(models.both_forms(b"nothing", DAMAGED))
    with pytest.raises(ProgramError, match=r"model.marram: onnxruntime: .*cannot load.*; LiteRT: "):
        forms.load(bundle, file)


@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
def test_the_configuration_may_say_which(at, runtime):
    forms, bundle, file = at(BOTH, runtime)
    model = forms.load(bundle, file)
    assert (model.runtime, model.why) == (runtime, "model.runtime says so")


def test_a_form_that_the_bundle_lacks_cannot_be_wanted(at):
    forms, bundle, file = at(models.bundle(), "tflite")
    with pytest.raises(BundleError, match=r"model\.runtime is tflite, but what runs here is: onnx"):
        forms.load(bundle, file)


def test_where_one_runtime_is_installed_that_one_is_used(at, monkeypatch):
    _, bundle, _ = at(BOTH)
    monkeypatch.setattr(rooms, "find_spec", lambda name: None if name == "onnxruntime" else object())
    assert possible(bundle) == (("infer_tflite",), "onnxruntime is not installed")


def test_a_choice_that_was_damaged_is_made_anew(at, tmp_path):
    (tmp_path / "forms.json").write_bytes(b"\xff{")
    forms, bundle, file = at(BOTH)
    assert forms.load(bundle, file).runtime
    assert len(json.loads((tmp_path / "forms.json").read_bytes())["choices"]) == 1


@pytest.mark.parametrize("damage", [b"", b"garbage" * 20, DAMAGED], ids=["empty", "garbage", "half"])
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_bare_file_is_tried_in_a_child_first(tmp_path, damage, kind):
    file = tmp_path / f"model.{kind}"
    file.write_bytes(damage)
    bundle = open_model(file, described())
    forms = Forms(Choices(tmp_path / "forms.json"), OPTIONS, "auto", Trier(bundle, 1 << 30, 0, 60.0))
    with pytest.raises(ProgramError, match="cannot load"):
        forms.load(bundle, file)


CONFIG = """
device: {{ name: dev, state: {state} }}
sensors: [{{ type: host, name: host }}]
stream: {{ channels: {{ x: {{ source: host.cpu }}, y: {{ source: host.memory }} }} }}
model: {{ bundle: {bundle}, runtime: {runtime} }}
"""


@pytest.mark.parametrize(
    ("runtime", "other"), [("onnx", "litert"), ("tflite", "onnxruntime")], ids=["onnx", "tflite"]
)
def test_the_daemon_has_nothing_of_the_other_runtime_in_memory(tmp_path, runtime, other):
    (tmp_path / "both.marram").write_bytes(BOTH)
    config = tmp_path / "marram.yaml"
    config.write_text(CONFIG.format(state=tmp_path / "s", bundle=tmp_path / "both.marram", runtime=runtime))
    agent = Process("marram.cli", ["run", "-c", str(config)], tmp_path / "log")
    agent.start()
    try:
        eventually("the agent is ready", lambda: agent.said("ready after") or not agent.running)
        assert agent.running, agent.tail()
        maps = Path(f"/proc/{agent.pid}/maps").read_text()
    finally:
        agent.stop()
    own = {"onnx": "onnxruntime", "tflite": "litert"}[runtime]
    assert own in maps and other not in maps


SHAPE = ("batch", 6, 100)
WEIGHTS = np.random.default_rng(0).normal(size=(7, 600)).astype(np.float32) / 100


def shoulder(version, onnx_weights, tflite_weights=None):
    """A bundle of the shoulder's family whose programs are linear."""
    source = bundle_of(SHOULDER)
    files = {**source.members, "infer.onnx": models.linear(onnx_weights, SHAPE)}
    programs = dict(source.manifest.programs)
    if tflite_weights is not None:
        files["infer.tflite"] = tflite.linear(tflite_weights, (-1, 6, 100))
        programs["infer_tflite"] = msgspec.structs.replace(
            programs["infer"], file="infer.tflite", runtime="tflite"
        )
    return encode(msgspec.structs.replace(source.manifest, version=version, programs=programs), files)


def outcome(tmp_path, release):
    """(the stage that the release came to, why, the runtime of what runs, why that)."""
    repository = Repository.create(tmp_path / "fleet")
    repository.release(release, "1")
    (tmp_path / "configured.marram").write_bytes(shoulder("0", WEIGHTS))
    settings = msgspec.structs.replace(SETTINGS, trial=msgspec.structs.replace(SETTINGS.trial, windows=10))
    windows = replace(shoulder_windows(1), labels=np.full_like(shoulder_windows(1).labels, -1))
    filled_store(tmp_path / "windows.db", windows).close(0.0)
    made = rig(
        tmp_path / "device",
        repository,
        configured=tmp_path / "configured.marram",
        releases=settings,
        store=str(tmp_path / "windows.db"),
    )
    with made as device:
        device.until("an end", lambda: device.told[0] in ("committed", "rolled_back"))
        model = device.inference.model
        return *device.told, model.runtime, model.why


def test_of_a_release_both_forms_are_measured_and_the_better_one_runs(tmp_path):
    stage, _, runtime, why = outcome(tmp_path, shoulder("1", WEIGHTS, WEIGHTS))
    assert stage == "committed"
    assert runtime in why.replace("onnxruntime", "onnx").replace("LiteRT", "tflite").split(": ")[1]


@pytest.mark.parametrize(
    ("onnx_weights", "tflite_weights", "runtime"),
    [(WEIGHTS, -WEIGHTS, "onnx"), (-WEIGHTS, WEIGHTS, "tflite")],
    ids=["onnx", "tflite"],
)
def test_a_form_that_the_gates_refuse_leaves_the_other(tmp_path, onnx_weights, tflite_weights, runtime):
    stage, _, found, _ = outcome(tmp_path, shoulder("1", onnx_weights, tflite_weights))
    assert (stage, found) == ("committed", runtime)


def test_a_release_whose_forms_both_disagree_is_rolled_back(tmp_path):
    stage, reason, runtime, _ = outcome(tmp_path, shoulder("1", -WEIGHTS, -WEIGHTS))
    assert (stage, runtime) == ("rolled_back", "onnx")
    assert "agrees with the running model on" in reason


LIVE = replace(shoulder_windows(1), labels=np.full_like(shoulder_windows(1).labels, -1))


def fast_and_wrong(version, **members):
    """The shoulder bundle with a form for LiteRT that is faster than its ONNX form, and always wrong."""
    bundle = parse(released(version, **members))
    said = bundle_of(SHOULDER).program("infer")(x=LIVE.values)["scores"]
    never = np.bincount(said.argmax(axis=1), minlength=7).argmin()
    bias = np.eye(7, dtype=np.float32)[never] * 10
    wrong = tflite.linear(np.zeros_like(WEIGHTS), (-1, 6, 100), bias)
    form = msgspec.structs.replace(bundle.manifest.programs["infer"], file="infer.tflite", runtime="tflite")
    programs = {**bundle.manifest.programs, "infer_tflite": form}
    manifest = msgspec.structs.replace(bundle.manifest, programs=programs)
    return encode(manifest, {**bundle.members, "infer.tflite": wrong})


@pytest.mark.parametrize("other", ["good", "bad"])
def test_of_a_form_that_the_trial_refuses_the_other_is_tried_before_the_release_is_rolled_back(
    tmp_path, other
):
    """Without stored windows only live ones show that a form is wrong."""
    repository = Repository.create(tmp_path / "fleet")
    members = {} if other == "good" else {"infer": spoilt("permuted")}
    repository.release(fast_and_wrong("1", **members), "1")
    with rig(tmp_path / "device", repository, windows=LIVE) as device:
        device.until("an end", lambda: device.told[0] in ("committed", "rolled_back"))
        stage, reason = device.told
        model = device.inference.model
    if other == "good":
        assert (stage, model.name, model.runtime) == ("committed", "shoulder 1", "onnx")
        assert model.why.startswith("LiteRT: agrees with the running model on 0%")
    else:
        assert (stage, model.name) == ("rolled_back", "shoulder 0")
        assert "onnxruntime: agrees with" in reason and "LiteRT: agrees with" in reason
