"""From a PyTorch project to a bundle, or to an error that says what is wrong and where."""

import textwrap

import numpy as np
import onnx
import pytest
import torch
from marram.bundle.file import parse, read
from marram.errors import ConfigError, MarramError
from marram_cloud.projects.errors import ProjectError
from marram_cloud.releases.calibration import CalibrationError
from marram_cloud.workshop import translations
from marram_cloud.workshop.build import build
from marram_cloud.workshop.translations import UnsupportedError
from marram_cloud.workshop.verify import TOLERANCE, DisagreementError, Verifier, batches
from torch import nn

from tests.support.sampled import ONLY_ZOO, drawn, every_fourth_day
from tests.support.windows import HOST, SHOULDER

YAML = """\
name: small
task: classify
channels: [{name: a}, {name: b}]
rate: 10
length: 24
stride: 12
labels: [x, y, z]
"""
LINEAR = "nn.Sequential(nn.Flatten(), nn.Linear(48, 3))"


def project(folder, model=LINEAR, yaml=YAML, code=None, windows=None):
    """A project whose model() returns the expression ``model``, or with all of ``code`` as model.py."""
    folder.mkdir(exist_ok=True)
    (folder / "project.yaml").write_text(yaml)
    text = "import torch\nfrom torch import nn\n\n"
    (folder / "model.py").write_text(
        text + (textwrap.dedent(code) if code else f"def model():\n    return {model}\n")
    )
    if windows is None:
        windows = np.random.default_rng(0).normal(size=(40, 2, 24)).astype(np.float32)
    np.savez(folder / "calibration.npz", windows=windows)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A built project: its folder, and the bundle's file."""
    folder = project(tmp_path_factory.mktemp("module") / "small")
    return folder, build(folder).path


# ---- good projects


COMMITTED = {"shoulder": SHOULDER, "host": HOST}


@pytest.mark.parametrize("name", drawn(COMMITTED, 1))
def test_an_example_builds_to_its_committed_bundle(name, tmp_path):
    committed = COMMITTED[name]
    folder = committed.parent
    report = build(folder, tmp_path / "built.marram")
    assert report.size < 200_000
    assert max(report.differences.values()) <= 1e-5
    made, wanted = read(tmp_path / "built.marram"), read(committed)
    if made.digest == wanted.digest:
        return
    # Another machine may fold constants to other last bits: then everything but these must be equal.
    assert made.manifest.family == wanted.manifest.family or made.members.keys() == wanted.members.keys()
    for name in sorted(made.members):
        if name.endswith(".onnx"):
            pairs = zip(
                *(onnx.load_from_string(one.members[name]).graph.node for one in (made, wanted)), strict=True
            )
            assert all(one.op_type == other.op_type for one, other in pairs), name
    np.testing.assert_allclose(made.parameters(), wanted.parameters(), atol=1e-6)


@every_fourth_day(3)
def test_every_required_operator_can_be_trained(tmp_path):
    layers = (
        "nn.Conv1d(2, 8, 5, stride=2, padding=2), nn.GroupNorm(2, 8), nn.ReLU(), nn.MaxPool1d(2), "
        "nn.Conv1d(8, 8, 3, dilation=2, padding=2), nn.ReLU(), nn.AvgPool1d(3, stride=2, padding=1), "
        "nn.Flatten(), nn.Linear(24, 3)"
    )
    folder = project(tmp_path / "small", f"nn.Sequential({layers})")
    report = build(folder)
    assert max(report.differences.values()) <= 1e-5
    bundle = read(report.path)
    x = np.random.default_rng(1).normal(size=(16, 2, 24)).astype(np.float32)
    y = np.arange(16, dtype=np.int64) % 3
    step = bundle.program("train")
    parameters, losses = bundle.parameters(), []
    state = np.zeros(bundle.manifest.training.state, np.float32)
    fixed = {
        "x": x, "y": y, "weight": np.ones(16, np.float32), "learning_rate": np.float32(0.05),
        "anchor": parameters, "mu": np.float32(0),
    }  # fmt: skip
    fixed = {name: np.asarray(value) for name, value in fixed.items()}
    for _ in range(60):
        out = step(parameters=parameters, state=state, **fixed)
        parameters, state = out["new_parameters"], out["new_state"]
        losses.append(float(out["loss"]))
    assert losses[-1] < 0.5 * losses[0]


def test_the_step_is_sgd_with_momentum_and_a_proximal_term_as_pytorch_does_it(small):
    bundle = read(small[1])
    step, start = bundle.program("train"), bundle.parameters()
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    with torch.no_grad():
        module[1].weight.copy_(torch.from_numpy(start[: 3 * 48].reshape(3, 48)))
        module[1].bias.copy_(torch.from_numpy(start[3 * 48 :]))
    anchor = [value.detach().clone() for value in module.parameters()]
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    parameters, state = start, np.zeros_like(start)
    rng = np.random.default_rng(2)
    for _ in range(4):
        x = rng.normal(size=(8, 2, 24)).astype(np.float32)
        y = rng.integers(0, 3, 8)
        weight = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)  # the last three pad the batch
        out = step(
            parameters=parameters, state=state, x=x, y=y, weight=weight,
            learning_rate=np.array(0.1, np.float32), anchor=start, mu=np.array(0.5, np.float32),
        )  # fmt: skip
        parameters, state = out["new_parameters"], out["new_state"]
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(module(torch.from_numpy(x[:5])), torch.from_numpy(y[:5]))
        near = sum(((now - old) ** 2).sum() for now, old in zip(module.parameters(), anchor, strict=True))
        (loss + 0.25 * near).backward()
        optimiser.step()
        assert float(out["loss"]) == pytest.approx(loss.item(), abs=1e-5)
    flat = torch.cat([value.detach().reshape(-1) for value in module.parameters()]).numpy()
    np.testing.assert_allclose(parameters, flat, atol=1e-5)


def test_the_same_project_gives_the_same_bytes(small, tmp_path):
    folder, path = small
    first = path.read_bytes()
    assert build(folder, tmp_path / "again.marram").path.read_bytes() == first
    assert parse(first).manifest.labels == ("x", "y", "z")


# ---- a program that disagrees


def test_a_program_that_disagrees_with_pytorch_is_named_and_no_bundle_is_written(tmp_path, monkeypatch):
    right = translations.convolution_backward

    def wrong(*arguments):
        grad_input, grad_weight, grad_bias = right(*arguments)
        return (
            grad_input,
            translations.op.Mul(grad_weight, translations.op.Constant(value_float=1.01)),
            grad_bias,
        )

    monkeypatch.setitem(translations.TRANSLATIONS, torch.ops.aten.convolution_backward.default, wrong)
    folder = project(
        tmp_path / "small", "nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(88, 3))"
    )
    with pytest.raises(DisagreementError, match=r"train\.onnx: output 'new_parameters' differs .* no bundle"):
        build(folder)
    assert list(folder.glob("*.marram")) == []


def test_a_module_whose_training_diverges_in_pytorch_itself_is_told_so():
    source = read(SHOULDER)
    case = {"parameters": torch.from_numpy(source.parameters()), "x": torch.zeros(2, 6, 100)}
    with pytest.raises(DisagreementError, match="PyTorch itself gives NaN or infinity, after some steps"):
        Verifier({}).program(
            "train.onnx", source.members["predict.onnx"], lambda **_: (torch.full((2, 7), torch.nan),), [case]
        )


# ---- architectures

IMAGE = """
    def pointwise(inside, outside, stride=1):
        return nn.Sequential(
            nn.Conv2d(inside, inside, 3, stride, 1, groups=inside), nn.ReLU(),
            nn.Conv2d(inside, outside, 1), nn.ReLU(),
        )

    def model():
        return nn.Sequential(
            nn.Unflatten(1, (1, 2)), pointwise(1, 4), pointwise(4, 6, 2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
        )
    """
CAUSAL = """
    class Causal(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3, dilation=2)])
            self.out = nn.Linear(4, 3)

        def forward(self, x):
            for step, layer in enumerate(self.layers):
                x = torch.relu(layer(nn.functional.pad(x, (2 * 2**step, 0))))
            return self.out(x[:, :, -1])

    def model():
        return Causal()
    """


@ONLY_ZOO
@pytest.mark.parametrize("code", [IMAGE, CAUSAL], ids=["depthwise 2-D", "dilated causal"])
def test_other_architectures_build_and_agree_with_pytorch(tmp_path, code):
    """The build itself compares every program with PyTorch, and refuses what differs."""
    report = build(project(tmp_path / "small", code=code))
    assert max(report.differences.values()) <= TOLERANCE
    assert set(report.differences) == {"train.onnx", "evaluate.onnx", "predict.onnx"}


# ---- what is not supported


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            "nn.Sequential(nn.Conv1d(2, 4, 3), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(4, 3))",
            "adaptive_max",
        ),
        (
            "nn.Sequential(nn.Conv1d(2, 1, 1), nn.AvgPool1d(10, ceil_mode=True), nn.Flatten())",
            "ceil_mode",
        ),
    ],
    ids=["adaptive max", "ceil"],
)
def test_an_unsupported_operator_is_named_with_what_to_use_instead(tmp_path, model, words):
    folder = project(tmp_path / "small", model)
    with pytest.raises(UnsupportedError, match=words) as caught:
        build(folder)
    assert "use" in str(caught.value)
    assert list(folder.glob("*.marram")) == []


def test_a_forward_that_decides_by_its_values_says_what_to_use(tmp_path):
    code = """
        class M(nn.Module):
            def __init__(self):
                super().__init__()
                self.out = nn.Linear(48, 3)

            def forward(self, x):
                return self.out((x if x.sum() > 0 else -x).flatten(1))

        def model():
            return M()
        """
    with pytest.raises(UnsupportedError, match=r"torch\.where"):
        build(project(tmp_path / "small", code=code))


def test_one_window_of_features_is_enough_to_compare_programs_on():
    cases = batches(torch.ones(1, 4), classes=3, seed=0)
    assert all(case["x"].isfinite().all() for case in cases)


# ---- mistakes of a project


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nn.Sequential(nn.Flatten(), nn.Linear(47, 3))", r"forward fails on windows of shape \(5, 2, 24\)"),
        ("nn.Sequential(nn.Flatten(), nn.Linear(48, 4))", r"shape \(5, 3\), a label each; it gives \(5, 4\)"),
        ("nn.Sequential(nn.Linear(24, 3))", r"it gives \(5, 2, 3\)"),
        ("nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).double()", "torch.float64"),
        (
            "nn.Sequential(nn.Flatten(), nn.AlphaDropout(0.5), nn.Linear(48, 3))",
            "no chance but that of nn.Dropout",
        ),
        (
            "nn.Sequential(nn.BatchNorm1d(2, momentum=None), nn.Flatten(), nn.Linear(48, 3))",
            "give a BatchNorm a number",
        ),
        ("nn.Flatten()", "no parameters"),
        ("nn.Sequential(nn.Flatten(), nn.Linear(48, 3), nn.Softmax(1))", "leave out the softmax at its end"),
        (f"nn.DataParallel({LINEAR})", "gave a DataParallel: give the module that is in it"),
        ("3", "gave int, not a torch"),
        ("undefined_name", "NameError"),
    ],
)
def test_a_mistake_in_the_module_names_the_file_and_the_mistake(tmp_path, model, words):
    folder = project(tmp_path / "small", model)
    with pytest.raises(ProjectError, match=words) as caught:
        build(folder)
    assert str(caught.value).startswith(f"{folder / 'model.py'}: ")
    assert list(folder.glob("*.marram")) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def model(:\n    pass\n", "SyntaxError"),
        ("x = 1\n", "should define model"),
        ("import nowhere\n", "nowhere"),
    ],
)
def test_a_model_file_that_cannot_be_used_says_why(tmp_path, code, words):
    with pytest.raises(ProjectError, match=words):
        build(project(tmp_path / "small", code=code))


FORWARDS = {
    "in place": ("x -= 1\n        return self.out(x.flatten(1))", "changes the windows that it is given"),
    "exit": ("raise SystemExit(3)", r"SystemExit: 3 \(model\.py, line 11: raise SystemExit"),
    "no gradient": ("return self.out(x.flatten(1)).detach()", "training step changes nothing: let gradients"),
    "by the batch's size": (
        "return self.out(x.flatten(1)) * (2 if x.shape[0] > 20 else 1)",
        "differs from PyTorch .* decides nothing in Python",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FORWARDS)
def test_a_forward_that_cannot_be_a_program_is_told_why(tmp_path, case):
    body, words = FORWARDS[case]
    code = f"""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(48, 3)

    def forward(self, x):
        {body}

def model():
    return Net()
"""
    folder = project(tmp_path / "small", code=code)
    with pytest.raises((ProjectError, DisagreementError), match=words):
        build(folder)
    assert not list(folder.glob("*.marram"))


def test_more_parameters_than_a_device_takes_are_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("marram_cloud.workshop.project.MOST_PARAMETERS", 146)
    with pytest.raises(ProjectError, match=r"model\.py: 147 parameters .* at most 146: name fewer"):
        build(project(tmp_path / "small"))


def test_another_default_type_is_refused_and_does_not_stay(tmp_path):
    code = f"torch.set_default_dtype(torch.float64)\n\ndef model():\n    return {LINEAR}.float()\n"
    with pytest.raises(ProjectError, match=r"model\.py: sets PyTorch's default type: leave out"):
        build(project(tmp_path / "small", code=code))
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", ["project.yaml", "model.py", "calibration.npz"])
def test_a_missing_file_is_named(tmp_path, name):
    folder = project(tmp_path / "small")
    (folder / name).unlink()
    with pytest.raises(MarramError, match=name):
        build(folder)


@pytest.mark.parametrize(
    "windows",
    [
        np.zeros((5, 2, 23), np.float32),
        np.zeros((0, 2, 24), np.float32),
        np.full((5, 2, 24), np.nan, np.float32),
    ],
    ids=["shape", "none", "NaN"],
)
def test_calibration_windows_that_cannot_be_used_are_refused(tmp_path, windows):
    with pytest.raises(CalibrationError, match=r"calibration\.npz"):
        build(project(tmp_path / "small", windows=windows))


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04garbage"])
def test_a_damaged_calibration_file_is_refused(tmp_path, content):
    folder = project(tmp_path / "small")
    (folder / "calibration.npz").write_bytes(content)
    with pytest.raises(CalibrationError, match=r"calibration\.npz"):
        build(folder)


@pytest.mark.parametrize(
    ("line", "place"),
    [("task: classfy", "2:7"), ("length: 0", "5:9"), ("labels: [x]", "7:9"), ("lenght: 24", "5:1")],
)
def test_a_mistake_in_the_project_file_has_its_line_and_column(tmp_path, line, place):
    lines = YAML.splitlines()
    lines[int(place.partition(":")[0]) - 1] = line
    with pytest.raises(ConfigError, match=rf"project\.yaml:{place}"):
        build(project(tmp_path / "small", yaml="\n".join(lines) + "\n"))


def test_a_reconstruct_module_that_gives_no_pair_is_told_what_to_give(tmp_path):
    yaml = YAML.replace("classify", "reconstruct").replace("labels: [x, y, z]\n", "")
    with pytest.raises(ProjectError, match="normalised window, its reconstruction"):
        build(project(tmp_path / "small", yaml=yaml))
