"""Channels that go, and a module that learns again; int8 played in training."""

import copy

import pytest
import torch
from marram_cloud.workshop.fake_int8 import fake_int8, tune_for_int8
from marram_cloud.workshop.functions import Functions
from marram_cloud.workshop.losses import usual
from marram_cloud.workshop.models.autoencoder import Autoencoder
from marram_cloud.workshop.optimisers import Sgd
from marram_cloud.workshop.pruning import prune
from marram_cloud.workshop.tuning import Lessons, tune
from torch import nn
from torch.nn import functional


class Residual(nn.Module):
    """Two convolutions whose outputs are added: their channels hang together."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(3, 16, 3, padding=1)
        self.second = nn.Conv1d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm1d(16)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        entry = torch.relu(self.first(x))
        return self.last(torch.relu(entry + self.norm(self.second(entry))).mean(dim=2))


class Rigid(nn.Module):
    """Its own code counts on the first layer's channels."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 16, 3, padding=1), nn.Conv1d(8, 16, 3)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        halves = self.first(x).reshape(len(x), 2, 8, x.shape[2]).amax(dim=1)
        return self.last(torch.relu(self.second(halves)).mean(dim=2))


def depthwise():
    return nn.Sequential(
        nn.Conv1d(3, 16, 3), nn.ReLU(), nn.Conv1d(16, 16, 3, groups=16), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.Conv1d(16, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def lessons(module, task="classify", epochs=1, fixed=()):
    """64 windows (3, 20) whose label is where the largest of four means is."""
    torch.manual_seed(0)
    x = torch.randn(64, 3, 20)
    y = x[:, 0].reshape(64, 4, 5).mean(dim=2).argmax(dim=1) if task == "classify" else None
    names = tuple(name for name, _ in module.named_parameters())
    functions = Functions(module, task, usual(task), Sgd(), names, fixed=fixed)
    return Lessons(x, y, functions, epochs, learning_rate=5e-3)


def size(module):
    return sum(value.numel() for value in module.parameters())


@pytest.mark.parametrize("make", [Residual, depthwise, Rigid])
def test_channels_go_and_the_outputs_keep_their_shape(make):
    torch.manual_seed(0)
    module = make()
    before = copy.deepcopy(module.state_dict())
    pruned = prune(module, 0.5, lessons(module), module)
    assert size(pruned) < 0.75 * size(module)
    assert pruned(torch.randn(5, 3, 20)).shape == (5, 4)
    for name, value in module.named_parameters():
        torch.testing.assert_close(value, before[name])  # the module itself stays whole


def test_the_layers_that_the_modules_own_code_counts_on_stay_whole():
    module = Rigid()
    pruned = prune(module, 0.5, lessons(module), module)
    assert pruned.first.out_channels == 16
    assert pruned.second.in_channels == 8
    assert pruned.second.out_channels <= 8


def test_an_autoencoder_keeps_the_shape_of_its_windows():
    module = Autoencoder([0.0] * 3, [1.0] * 3, 20)
    pruned = prune(module, 0.5, lessons(module, "reconstruct"), module)
    assert [tuple(one.shape) for one in pruned(torch.randn(5, 3, 20))] == [(5, 3, 20)] * 2
    assert size(pruned) < 0.75 * size(module)


def test_a_module_of_which_nothing_can_go_is_left_alone():
    module = nn.Sequential(nn.Flatten(), nn.Linear(60, 4))
    assert prune(module, 0.5, lessons(module), module) is None


def test_a_student_comes_nearer_to_its_teacher_than_the_labels_alone_bring_it():
    torch.manual_seed(1)
    teacher, alone, taught = depthwise(), depthwise(), depthwise()
    taught.load_state_dict(alone.state_dict())
    learn = lessons(teacher, epochs=12)
    noise = copy.copy(learn)
    object.__setattr__(noise, "y", torch.randint(0, 4, (64,)))  # labels that tell nothing
    tune(teacher, learn)
    tune(alone, noise)
    tune(taught, noise, teacher)
    unseen = torch.randn(100, 3, 20)

    def distance(student):
        with torch.no_grad():
            said, wanted = (functional.log_softmax(one(unseen), dim=1) for one in (student, teacher))
        return float(functional.kl_div(said, wanted, log_target=True, reduction="batchmean"))

    assert distance(taught) < distance(alone)


def test_training_is_the_same_every_time():
    torch.manual_seed(2)
    first = Residual()
    second = copy.deepcopy(first)
    tune(first, lessons(first))
    tune(second, lessons(second))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_statistics_that_are_frozen_stay_in_a_pruned_copy():
    module = Residual()
    learn = lessons(module, fixed=(module.norm,))
    pruned = prune(module, 0.5, learn, module)
    assert torch.equal(pruned.norm.running_mean, torch.zeros(pruned.norm.num_features))


def test_inside_fake_int8_every_other_batch_is_computed_with_rounded_weights_and_behind_it_none():
    layer = nn.Linear(3, 2)
    weight = layer.weight.detach().clone()
    x = torch.randn(50, 3)
    module = nn.Sequential(layer)
    exact = module(x)
    with fake_int8(module):
        assert torch.equal(module(x), exact)
        rounded = module(x)
        steps = layer.weight / (weight.abs().amax(dim=1, keepdim=True) / 127)
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
        assert torch.equal(module(x), exact)
    assert 0 < (rounded - exact).abs().max() < 0.1
    assert torch.equal(layer.weight, weight)
    assert torch.equal(module(x), exact)


def test_the_ranges_follow_the_batches_in_float_and_what_is_outside_is_cut():
    layer = nn.Linear(1, 1)
    module = nn.Sequential(layer)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.zero_()
    with fake_int8(module):
        for largest in (1.0, 50.0, 2.0):  # in float, rounded, in float
            module(torch.tensor([[0.0], [largest]]))
        cut = float(module(torch.tensor([[9.0]])).detach())
    assert cut == pytest.approx(0.95 * 1.0 + 0.05 * 2.0, rel=0.01)


def test_a_module_learns_in_fake_int8_and_keeps_the_order_of_its_parameters():
    torch.manual_seed(3)
    module = Residual()
    learn = lessons(module, epochs=25)

    def loss(one):
        with torch.no_grad():
            return float(learn.loss(one.eval()(learn.x), learn.x, learn.y))

    learnt = tune_for_int8(module, learn, module)
    assert loss(learnt) < 0.95 * loss(module)
    assert [name for name, _ in learnt.named_parameters()] == [name for name, _ in module.named_parameters()]
