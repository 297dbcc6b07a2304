"""Exported steps against a loop as a user would write it, with PyTorch's own losses and optimisers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from marram.bundle.file import read
from marram_cloud.projects.errors import ProjectError
from marram_cloud.workshop.build import build
from marram_cloud.workshop.plain import chance
from marram_cloud.workshop.project import Project
from torch import nn
from torch.nn import functional

from tests.support.sampled import drawn, every_fourth_day
from tests.unit.cloud.workshop.test_build import YAML, project

RECONSTRUCT = YAML.replace("classify", "reconstruct").replace("labels: [x, y, z]\n", "")
FORECAST = YAML.replace("classify", "forecast").replace("labels: [x, y, z]\n", "horizon: 4\n")
LINEAR = "nn.Sequential(nn.Flatten(), nn.Linear(48, 3))"
AHEAD = "nn.Sequential(nn.Flatten(), nn.Linear(40, 8), nn.Unflatten(1, (2, 4)))"
RATE, WINDOWS = 0.05, 12


class Run:
    """A built project's step, and the same module for a loop by hand."""

    def __init__(self, folder, model, yaml, extra="", code=None):
        self.folder = project(folder / "project", model, yaml + extra, code=code)
        self.bundle = read(build(self.folder).path)
        self.module = copy.deepcopy(Project(self.folder).functions.module).train()
        chance = np.random.default_rng(1)
        self.x = chance.normal(size=(WINDOWS, 2, 24)).astype(np.float32)
        self.y = chance.integers(0, 3, WINDOWS)

    def steps(self, count=3, weight=None, seed=0, mu=0.0):
        """Parameters after so many steps of train.onnx on the same windows, by name."""
        program = self.bundle.program("train")
        values = self.bundle.parameters()
        state = np.zeros(self.bundle.manifest.training.state, np.float32)
        given = {
            "x": self.x, "y": self.y, "weight": np.ones(WINDOWS, np.float32) if weight is None else weight,
            "learning_rate": np.float32(RATE), "anchor": values, "mu": np.float32(mu), "seed": np.int64(seed),
        }  # fmt: skip
        names = {tensor.name for tensor in program.inputs}
        fixed = {name: np.asarray(value) for name, value in given.items() if name in names}
        for _ in range(count):
            out = program(parameters=values, state=state, **fixed)
            values, state = out["new_parameters"], out["new_state"]
        return self.named(values), float(out["loss"])

    def named(self, values):
        found, place = {}, 0
        for tensor in self.bundle.manifest.parameters:
            size = int(np.prod(tensor.shape))
            found[tensor.name] = values[place : place + size].reshape(tensor.shape)
            place += size
        return found

    def by_hand(self, loss, optimiser=None, count=3, clip=0.0):
        """The same by a loop; loss(module, x, y)."""
        moved = [value for value in self.module.parameters() if value.requires_grad]
        optimiser = (optimiser or (lambda those: torch.optim.SGD(those, lr=RATE, momentum=0.9)))(moved)
        x, y = torch.from_numpy(self.x), torch.from_numpy(self.y)
        for _ in range(count):
            optimiser.zero_grad()
            value = loss(self.module, x, y)
            value.backward()
            if clip:
                nn.utils.clip_grad_norm_(moved, clip)
            optimiser.step()
        return {
            name: tensor.detach().numpy() for name, tensor in self.module.state_dict().items()
        }, value.item()


def same(found, wanted):
    (values, loss), (expected, other) = found, wanted
    assert values
    for name, value in values.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)
    assert loss == pytest.approx(other, abs=1e-5)


LOSSES = {
    "class weights": (
        LINEAR, YAML, "loss: {type: cross-entropy, class_weights: [1, 2, 5]}\n",
        lambda m, x, y: functional.cross_entropy(m(x), y, torch.tensor([1.0, 2, 5])),
    ),
    "smoothing": (
        LINEAR, YAML, "loss: {type: cross-entropy, smoothing: 0.2}\n",
        lambda m, x, y: functional.cross_entropy(m(x), y, label_smoothing=0.2),
    ),
    "binary": (
        LINEAR, YAML, "loss: {type: binary-cross-entropy, positive_weight: 3}\n",
        lambda m, x, y: functional.binary_cross_entropy_with_logits(
            m(x), functional.one_hot(y, 3).float(), pos_weight=torch.tensor(3.0)
        ),
    ),
    "mse": (AHEAD, FORECAST, "", lambda m, x, y: functional.mse_loss(m(x[:, :, :20]), x[:, :, 20:])),
    "huber": (
        AHEAD, FORECAST, "loss: {type: huber, delta: 0.5}\n",
        lambda m, x, y: functional.huber_loss(m(x[:, :, :20]), x[:, :, 20:], delta=0.5),
    ),
    "quantile": (
        AHEAD, FORECAST, "loss: {type: quantile, quantile: 0.9}\n",
        lambda m, x, y: torch.where(
            (e := x[:, :, 20:] - m(x[:, :, :20])) > 0, 0.9 * e, -0.1 * e
        ).mean(),
    ),
    "infonce": (
        AHEAD, FORECAST, "loss: {type: infonce, temperature: 0.5}\n",
        lambda m, x, y: functional.cross_entropy(
            2 * functional.cosine_similarity(
                m(x[:, :, :20]).flatten(1)[:, None], x[:, :, 20:].flatten(1)[None], dim=2
            ),
            torch.arange(len(x)),
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", drawn(LOSSES, 2))
def test_a_loss_is_pytorchs(name, tmp_path):
    model, yaml, extra, loss = LOSSES[name]
    run = Run(tmp_path, model, yaml, extra)
    same(run.steps(), run.by_hand(loss))


OPTIMISERS = {
    "sgd": (
        "{type: sgd, momentum: 0.5, weight_decay: 0.1}",
        lambda p: torch.optim.SGD(p, RATE, 0.5, weight_decay=0.1),
    ),
    "adamw": ("{type: adamw, weight_decay: 0.1}", lambda p: torch.optim.AdamW(p, RATE, weight_decay=0.1)),
    "clipped": ("{type: sgd, clip: 0.1}", lambda p: torch.optim.SGD(p, RATE, 0.9)),
}


@pytest.mark.parametrize("name", drawn(OPTIMISERS, 1))
def test_an_optimiser_is_pytorchs(name, tmp_path):
    text, optimiser = OPTIMISERS[name]
    run = Run(tmp_path, LINEAR, YAML, f"training: {{optimiser: {text}}}\n")
    clip = 0.1 if name == "clipped" else 0.0
    same(run.steps(10), run.by_hand(lambda m, x, y: functional.cross_entropy(m(x), y), optimiser, 10, clip))


NORMED = "nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(88, 3))"


TWICE = (
    "nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4, momentum=0.3), nn.ReLU(), nn.Conv1d(4, 4, 3), "
    "nn.BatchNorm1d(4, affine=False), nn.BatchNorm1d(4, affine=False), nn.Flatten(), nn.Linear(80, 3))"
)


def test_running_statistics_follow_the_windows_and_are_shared(tmp_path):
    run = Run(tmp_path, TWICE, YAML)
    values, loss = run.steps()
    assert {"1.running_mean", "1.running_var", "4.running_mean", "5.running_var"} < set(values)
    same((values, loss), run.by_hand(lambda m, x, y: functional.cross_entropy(m(x), y)))


@every_fourth_day(2)
def test_frozen_statistics_stay_and_are_not_shared(tmp_path):
    run = Run(tmp_path, NORMED, YAML, "training: {statistics: frozen}\n")
    run.module[1].eval()
    values, loss = run.steps()
    assert not any("running" in name for name in values)
    same((values, loss), run.by_hand(lambda m, x, y: functional.cross_entropy(m(x), y)))


@every_fourth_day(3)
def test_only_what_is_trainable_is_trained_and_shared(tmp_path):
    run = Run(tmp_path, NORMED, YAML, "training: {trainable: ['4.*']}\n")
    for name, value in run.module.named_parameters():
        value.requires_grad_(name.startswith("4."))
    run.module[1].eval()
    values, loss = run.steps()
    assert set(values) == {"4.weight", "4.bias"}
    same((values, loss), run.by_hand(lambda m, x, y: functional.cross_entropy(m(x), y)))


def test_a_pattern_that_names_nothing_is_told_with_the_names_that_there_are(tmp_path):
    folder = project(tmp_path, LINEAR, YAML + "training: {trainable: [head]}\n")
    with pytest.raises(ProjectError, match=r"'head' matches no parameter; there are 1\.weight, 1\.bias"):
        build(folder)


@every_fourth_day(0)
def test_dropout_follows_the_seed_and_drops_as_many_as_it_says(tmp_path):
    code = """
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.linear = nn.Dropout(0.5), nn.Linear(48, 3)

        def forward(self, x):
            return self.linear(self.drop(x.flatten(1)))

    def model():
        return Half()
    """
    run = Run(tmp_path, "", YAML, code=code)
    one, again, other = (run.steps(1, seed=seed)[0]["linear.weight"] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    # A single window's dropped inputs move no weight.
    weight = np.zeros(WINDOWS, np.float32)
    weight[3] = 1
    before = run.named(run.bundle.parameters())["linear.weight"]
    still = [
        (run.steps(1, weight, seed)[0]["linear.weight"] == before).all(axis=0).mean() for seed in range(20)
    ]
    assert 0.4 < np.mean(still) < 0.6
    # Inference drops nothing.
    assert {tensor.name for tensor in run.bundle.program("predict").inputs} == {"parameters", "x"}


@pytest.mark.parametrize("stream", [1, 2, 17])
def test_the_numbers_of_dropout_look_like_chance(stream):
    rows, columns = torch.arange(16), torch.arange(2000)
    found = torch.stack([chance(rows, columns, torch.tensor(seed), stream) for seed in range(20)])
    drawn = found.double().numpy() / 2**64 + 0.5
    counts = np.histogram(drawn, 20, (0, 1))[0] / drawn.size * 20
    assert np.abs(counts - 1).max() < 0.03
    assert abs(np.corrcoef(drawn[..., :-1].ravel(), drawn[..., 1:].ravel())[0, 1]) < 0.01
    # Neither windows nor steps have to do with each other: half of the values, as dropout keeps them.
    kept = (drawn > 0.5).reshape(20 * 16, 2000)
    between = np.corrcoef(kept)[np.triu_indices(len(kept), 1)]
    assert np.abs(between).max() < 6 / np.sqrt(2000)
    assert abs(between.mean()) < 0.001


def test_a_forecast_is_of_what_comes_after_the_window(tmp_path):
    run = Run(tmp_path, AHEAD, FORECAST)
    out = run.bundle.program("predict")(parameters=run.bundle.parameters(), x=run.x)
    x = torch.from_numpy(run.x)
    with torch.no_grad():
        ahead, seen = run.module(x[:, :, 4:]), run.module(x[:, :, :20])
    np.testing.assert_allclose(out["forecast"], ahead.numpy(), atol=1e-6)
    np.testing.assert_allclose(out["score"], (seen - x[:, :, 20:]).square().mean((1, 2)).numpy(), atol=1e-5)
