"""What cannot be exported: what it is, its line in the user's source, and what to use instead."""

import textwrap

import pytest
from marram_cloud.projects.errors import ProjectError
from marram_cloud.workshop import export
from marram_cloud.workshop.build import build
from marram_cloud.workshop.project import Project
from marram_cloud.workshop.translations import UnsupportedError

from tests.support.sampled import drawn
from tests.unit.cloud.workshop.test_build import project

WHOLE = """\
class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv1d(2, 4, 3, padding=1), nn.Linear(4, 3)
        self.bilinear, self.embed = nn.Bilinear(4, 4, 3), nn.EmbeddingBag(10, 4)

    def forward(self, x):
        seen = self.conv(x)
        %s

def model():
    return Small()
"""


def small(folder, body):
    """A project whose forward goes on with ``body`` from ``seen``, (batch, 4, 24)."""
    return project(folder, code=WHOLE % textwrap.indent(body, " " * 8).lstrip())


def refused(folder, body, error=UnsupportedError):
    with pytest.raises(error) as caught:
        build(small(folder / "small", body))
    assert list((folder / "small").glob("*.marram")) == []
    return str(caught.value)


def names(said, line, words):
    place, _, rest = said.partition(": ")
    assert place.startswith("model.py, line ")
    assert line in rest
    assert words in rest


# Seen when the module is traced: (forward, the line that is named, what is said).
TRACED = {
    "branch": (
        "if x.mean() > 0:\n    seen = -seen\nreturn self.out(seen.mean(2))", "if x.mean() > 0:", "torch.where"
    ),
    "loop": (
        "while seen.abs().max() > 1:\n    seen = seen / 2\nreturn self.out(seen.mean(2))", "while seen",
        "torch.where",
    ),
    "number": ("return self.out(seen.mean(2)) * float(x.mean())", "float(x.mean())", "torch.where"),
    "every window": (
        "return self.out(torch.stack([one.mean(1) for one in seen.unbind(0)]))", "seen.unbind",
        "whole batches",
    ),
    "size of the batch": (
        "return self.out(seen.mean(2) + torch.ones(int(x.shape[0]), 1))", "int(x.shape[0])", "whole batches"
    ),
    "spectrum": ("return self.out(torch.fft.rfft(seen).abs().mean(2))", "torch.fft.rfft", "use a Conv1d"),
    "complex": ("return self.out(torch.complex(seen, seen).abs().mean(2))", "torch.complex", "pairs of real"),
    "one hot": (
        "return self.out(seen.mean(2) + nn.functional.one_hot(seen.mean(2).argmax(1), 4))", "one_hot",
        "torch.arange",
    ),
    "bilinear": ("return self.bilinear(seen.mean(2), seen.mean(2))", "self.bilinear(", "einsum"),
    "shrink": (
        "return self.out(nn.functional.hardshrink(seen).mean(2))", "hardshrink(seen)", "x.abs() > 0.5"
    ),
    "half": ("return self.out(seen.half().float().mean(2))", "seen.half()", "use float32"),
    "numpy": (
        "return self.out(seen.mean(2)) + torch.from_numpy(x.detach().numpy().mean((1, 2)))[:, None]",
        "numpy()", "functions of torch",
    ),
    "compiled": (
        "return torch.compile(self.out)(seen.mean(2))", "torch.compile(self.out)", "without torch.compile"
    ),
    "checkpoint": (
        "from torch.utils.checkpoint import checkpoint\n"
        "return self.out(checkpoint(self.conv, x, use_reentrant=False).mean(2))", "checkpoint(self.conv",
        "the module itself",
    ),
}  # fmt: skip
# Seen when operators are turned into ONNX: forward has a form or not, its gradient has none.
TRANSLATED = {
    "median": ("return self.out(seen.median(2)[0])", "seen.median(2)", "use torch.sort or torch.topk"),
    "cumulative": (
        "return self.out(seen.cummax(2)[0].mean(2))", "seen.cummax(2)", "amax over the whole axis"
    ),
    "in place": (
        "seen[:, :, 0] = 0\nreturn self.out(seen.mean(2))", "seen[:, :, 0] = 0", "which make a new tensor"
    ),
    "interpolate": (
        "wide = nn.functional.interpolate(seen, scale_factor=2)\nreturn self.out(wide.mean(2))",
        "wide = nn.functional.interpolate", "use ConvTranspose1d",
    ),
    "pooling": (
        "return self.out(nn.functional.adaptive_avg_pool1d(seen, 5).mean(2))", "adaptive_avg_pool1d",
        "AvgPool with a fixed kernel",
    ),
    "matrices": (
        "return self.out(torch.linalg.svdvals(seen))", "torch.linalg.svdvals", "sums and products",
    ),
    "layer": (
        "return self.out(self.embed(x[:, 0].abs().clamp(0, 9).long()))", "nn.EmbeddingBag(10, 4)",
        "nn.Embedding",
    ),
    "diagonal": (
        "return self.out((seen @ seen.transpose(1, 2)).diagonal(dim1=1, dim2=2))", ".diagonal(", ".sum(1)"
    ),
    "mask of places": (
        "return self.out(seen[:, :, torch.arange(24) % 2 == 0].mean(2))", "torch.arange(24) % 2",
        "index_select",
    ),
    "unknown": (
        "return self.out(seen.mean(2)) + torch.histc(x, 3)", "torch.histc", "use amax, mean, var"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", drawn(TRACED, 3))
def test_what_cannot_be_traced_is_named_with_its_line(name, tmp_path):
    body, line, words = TRACED[name]
    names(refused(tmp_path, body), line, words)


@pytest.mark.parametrize("name", drawn(TRANSLATED, 1))
def test_an_operator_without_a_form_is_named_with_its_line(name, tmp_path):
    body, line, words = TRANSLATED[name]
    names(refused(tmp_path, body), line, words)


def test_a_loop_over_many_steps_is_named_before_it_takes_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_MOST_OPERATORS", 150)
    body = "for step in range(20):\n    seen = torch.tanh(seen * 1.1)\nreturn self.out(seen.mean(2))"
    names(refused(tmp_path, body), "seen = torch.tanh(seen * 1.1)", "in place of a loop over its steps")


def test_a_layer_that_pytorch_calls_is_where_it_was_made(tmp_path):
    code = """
        def model():
            return nn.Sequential(
                nn.Conv1d(2, 4, 3),
                nn.AdaptiveMaxPool1d(1),
                nn.Flatten(), nn.Linear(4, 3),
            )
        """
    with pytest.raises(
        UnsupportedError, match=r"model\.py, line 8: nn\.AdaptiveMaxPool1d\(1\),: aten\.adaptive"
    ):
        build(project(tmp_path / "small", code=code))


def test_a_line_of_a_file_that_the_model_imports_is_named(tmp_path, monkeypatch):
    code = "import torch\n\n\ndef part(x):\n    return torch.fft.rfft(x).abs()\n"
    (tmp_path / "parts_of_it.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    said = refused(tmp_path, "import parts_of_it\nreturn self.out(parts_of_it.part(seen).mean(2))")
    assert said.startswith("parts_of_it.py, line 5: return torch.fft.rfft(x).abs(): fft_rfft has no form")


PROJECTS = {
    "chance": ("return self.out(seen.mean(2) + torch.randn(4))", "no chance but that of nn.Dropout"),
    "projections": (
        "states, _ = nn.LSTM(4, 4, proj_size=2)(seen.permute(2, 0, 1))\nreturn states[0]",
        r"use nn\.Linear after nn\.LSTM \(model\.py, line \d+: states, _ = nn\.LSTM",
    ),
    "packed": (
        "packed = nn.utils.rnn.pack_sequence(list(seen.transpose(1, 2)))\nreturn nn.GRU(4, 3)(packed)[1][0]",
        r"use the tensor itself \(model\.py, line \d+: return nn\.GRU",
    ),
    "squeeze": (
        "return self.out(seen.mean(2, keepdim=True).squeeze())",
        r"gives \(3,\) for a batch of one window",
    ),
    "list": ("return [self.out(seen.mean(2))]", "forward should give one tensor, it gives a list"),
    "fails": ("return self.out(seen)", r"\(model\.py, line \d+: return self\.out\(seen\)\)"),
}


@pytest.mark.parametrize("name", PROJECTS)
def test_a_mistake_in_forward_is_told_before_anything_is_traced(name, tmp_path):
    body, words = PROJECTS[name]
    with pytest.raises(ProjectError, match=words):
        Project(small(tmp_path / "small", body))


def test_a_lazy_layer_is_named(tmp_path):
    with pytest.raises(ProjectError, match=r"1\.weight has no shape yet: give sizes"):
        Project(project(tmp_path / "small", "nn.Sequential(nn.Flatten(), nn.LazyLinear(3))"))


def test_a_buffer_that_forward_changes_is_named(tmp_path):
    model = "nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(48, 3)))"
    with pytest.raises(ProjectError, match=r"changes its buffer '1\.parametrizations\.weight\.0\._u'"):
        Project(project(tmp_path / "small", model))
