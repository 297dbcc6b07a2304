"""What is done where int8 loses too much."""

import copy

import numpy as np
import pytest
import torch
from marram.programs.program import load
from marram_cloud.compression.quantise import quantise
from marram_cloud.compression.ranges import calibrate
from marram_cloud.releases.calibration import Calibration
from marram_cloud.workshop.budget import Budget
from marram_cloud.workshop.build import predict_program
from marram_cloud.workshop.fake_int8 import tune_for_int8
from marram_cloud.workshop.functions import Functions
from marram_cloud.workshop.losses import usual
from marram_cloud.workshop.optimisers import Sgd
from marram_cloud.workshop.search import Data, search
from marram_cloud.workshop.tuning import Lessons, tune
from torch import nn

from tests.support.sampled import every_fourth_day
from tests.support.unequal import SEED, digits, network


def functions(module):
    names = tuple(name for name, _ in module.named_parameters())
    return Functions(module, "classify", usual("classify"), Sgd(), names)


def export(module):
    made = functions(module)
    return predict_program(made, (2, 24)), made.flat().numpy()


def spoilt():
    """A channel that never speaks has weights beside which all others are less than a step of int8."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip
    with torch.no_grad():
        module[0].bias[0] = -100.0
        module[2].weight[:, 0] = 300.0
        module[6].bias.sub_(module(torch.randn(200, 2, 24)).mean(dim=0))
    return module


@pytest.fixture(scope="module")
def trials():
    """With the labels that the float model gives, so that its accuracy is 1."""
    module = spoilt()
    windows = torch.randn(200, 2, 24)
    with torch.no_grad():
        labels = module(windows).argmax(dim=1)
    lessons = Lessons(windows, labels, functions(module), epochs=0)
    data = Data(windows[:100].numpy(), Calibration(windows.numpy(), labels.numpy()), lessons, 3)
    return search(module, data, export, Budget(loss=0.05), ())


def by_precision(trials, precision):
    return [one.measured for one in trials if one.measured.precision == precision]


def test_the_float_model_is_the_measure(trials):
    first = trials[0].measured
    assert (first.precision, first.quality.accuracy, first.loss) == ("fp32", 1.0, 0.0)
    assert by_precision(trials, "int8")[0].loss > 0.05


def test_the_worst_layers_stay_in_float_until_the_loss_is_allowed(trials):
    mixed = by_precision(trials, "mixed")
    assert [one.loss <= 0.05 for one in mixed] == [False] * (len(mixed) - 1) + [True]
    assert [len(one.kept_float) for one in mixed] == list(range(1, len(mixed) + 1))
    worst = max(trials[0].layers, key=lambda one: one.error).layer
    assert worst.shape == (8, 8, 3)
    assert mixed[0].kept_float == (worst.name,)


def test_training_for_int8_is_tried_as_well(trials):
    assert len(by_precision(trials, "int8 tuned")) == 1


def test_without_training_windows_the_module_stays_as_it_is():
    module = spoilt()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    windows = np.random.default_rng(0).normal(size=(40, 2, 24)).astype(np.float32)
    found = search(module, Data(windows, Calibration(windows), None, 3), export, Budget(bytes=10_000), (0.5,))
    assert {one.measured.pruned for one in found} == {0.0}
    assert not by_precision(found, "int8 tuned")
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


@every_fourth_day(1)
def test_training_for_int8_rescues_what_int8_and_training_in_float_spoil():
    learnt, judged = digits()
    torch.manual_seed(SEED)
    module = network(8)
    lessons = Lessons(*map(torch.from_numpy, learnt), functions(module), epochs=10)

    def right(one):
        """In float and in int8."""
        made = functions(one)
        predict, flat = predict_program(made, judged[0].shape[1:]), made.flat().numpy()
        int8 = load(quantise(predict, flat, calibrate(predict, flat, learnt[0][::4])), "onnx")
        said = load(predict, "onnx")(parameters=flat, x=judged[0]), int8(x=judged[0])
        return [float((one["scores"].argmax(axis=1) == judged[1]).mean()) for one in said]

    tune(module, lessons)
    exact, int8 = right(module)
    assert int8 < exact - 0.1
    longer = copy.deepcopy(module)
    tune(longer, lessons, module)
    assert right(longer)[1] < exact - 0.05
    rescued = right(tune_for_int8(module, lessons, module))
    assert min(rescued) > exact - 0.03
