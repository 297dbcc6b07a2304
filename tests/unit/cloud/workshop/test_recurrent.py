"""GRU, LSTM and RNN against PyTorch's own modules over random shapes, and as exported programs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.programs.program import load
from marram_cloud.workshop.export import export
from marram_cloud.workshop.plain import Plain
from torch import nn
from torch.func import functional_call, grad

from tests.support.sampled import ALL, drawn

KINDS = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}
OPTIONS = {
    "num_layers": st.integers(1, 3),
    "bias": st.booleans(),
    "batch_first": st.booleans(),
    "bidirectional": st.booleans(),
}


@st.composite
def modules(draw):
    """(module, windows (batch, steps, inputs) in its order, what begins: None or states of all layers)."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    options = {name: draw(values) for name, values in OPTIONS.items()}
    if kind == "rnn":
        options["nonlinearity"] = draw(st.sampled_from(("tanh", "relu")))
    inputs, hidden, steps, batch = (draw(st.integers(1, most)) for most in (4, 5, 6, 4))
    torch.manual_seed(draw(st.integers(0, 1000)))
    module = KINDS[kind](inputs, hidden, **options)
    x = torch.randn((batch, steps, inputs) if options["batch_first"] else (steps, batch, inputs))
    shape = (options["num_layers"] * (2 if options["bidirectional"] else 1), batch, hidden)
    start = None
    if draw(st.booleans()):
        start = (torch.randn(shape), torch.randn(shape)) if kind == "lstm" else torch.randn(shape)
    return module, x, start


def everything(module, x, start):
    """All that it gives, and the gradients of a sum of it: of the windows, of what begins, of all weights."""
    begins = [] if start is None else list(start) if isinstance(start, tuple) else [start]
    wanted = [x, *begins, *module.parameters()]
    for one in wanted:
        one.requires_grad_()
    states, last = module(x, start)
    given_back = [states, *(last if isinstance(last, tuple) else (last,))]
    total = sum((one * torch.arange(1.0, one.numel() + 1).reshape(one.shape)).sum() for one in given_back)
    return [*given_back, *torch.autograd.grad(total, wanted)]


@settings(max_examples=25, deadline=None)
@given(modules())
def test_a_recurrent_layer_and_its_gradients_are_pytorchs(case):
    expected = everything(*case)
    with Plain().installed():
        found = everything(*case)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_is_pytorchs(cell, bias):
    torch.manual_seed(0)
    module, x, state = cell(3, 4, bias=bias), torch.randn(5, 3), torch.randn(5, 4)
    start = (state, torch.randn(5, 4)) if cell is nn.LSTMCell else state
    expected = module(x, start)
    with Plain().installed():
        torch.testing.assert_close(module(x, start), expected)


EXPORTED = {
    "gru": ("gru", {}),
    "gru both ways": ("gru", {"bidirectional": True, "batch_first": True, "num_layers": 2}),
    "gru without bias": ("gru", {"bias": False, "batch_first": True}),
    "lstm": ("lstm", {}),
    "lstm both ways": ("lstm", {"bidirectional": True, "batch_first": True, "num_layers": 2}),
    "lstm without bias": ("lstm", {"bias": False, "batch_first": True}),
}


@pytest.mark.parametrize("name", drawn(EXPORTED, 1))
@pytest.mark.parametrize("begins", [True, False] if ALL else [True])
def test_a_recurrent_layer_is_exported_with_its_gradients(name, begins):
    kind, options = EXPORTED[name]
    torch.manual_seed(0)
    module = KINDS[kind](3, 4, **options)
    layers = module.num_layers * (2 if module.bidirectional else 1)
    start = [torch.randn(layers, 1, 4) for _ in range(2 if kind == "lstm" else 1)] if begins else []
    names = [name for name, _ in module.named_parameters()]

    def run(weights, windows):
        """(batch, steps, hidden) of windows (batch, steps, inputs), whatever way the module wants them."""
        turned = windows if module.batch_first else windows.transpose(0, 1)
        each = [one.expand(-1, windows.shape[0], -1) for one in start]
        states, _ = functional_call(
            module, weights, (turned, tuple(each) if len(each) == 2 else [*each, None][0])
        )
        return states if module.batch_first else states.transpose(0, 1)

    def loss(weights, windows):
        states = run(weights, windows)
        return (states * states).sum()

    def program(x, **weights):
        with Plain().installed():
            named = {name: weights[f"w{number}"] for number, name in enumerate(names)}
            of_weights, of_x = grad(loss, argnums=(0, 1))(named, x)
            return (run(named, x), of_x, *(of_weights[name] for name in names))

    arguments = {"x": torch.zeros(1009, 6, 3)}
    arguments |= {f"w{number}": value.detach() for number, value in enumerate(module.parameters())}
    outputs = ["states", "of_x", *(f"of_w{number}" for number in range(len(names)))]
    exported = load(export(program, arguments, outputs, ["x"]), "onnx")
    given_in = {**arguments, "x": torch.randn(5, 6, 3)}
    found = exported(**{name: value.numpy() for name, value in given_in.items()})
    for one, other in zip(found.values(), program(**given_in), strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), atol=1e-5, rtol=1e-4)
