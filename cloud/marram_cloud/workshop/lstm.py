"""Long short-term memory (LSTM; Hochreiter and Schmidhuber, 1997, in PyTorch's form) as three operators.

Forward is ONNX's own LSTM, which gives the states of all steps but not the cells: backward computes all gates
of all steps at once from the states, and the cells from the gates in a Scan of two operators. Then only the
gradients of state and cell go back step by step, in another.
"""

from __future__ import annotations

from typing import Any

import onnx
import torch
from onnx import helper
from onnxscript import opset18 as op
from torch import Tensor
from torch.nn import functional

from marram_cloud.workshop.operators import define
from marram_cloud.workshop.recurrent import (
    Between,
    Value,
    Weights,
    graph,
    nothing_like,
    reordered,
    rows,
    scan,
    stacked,
)


def lstm(
    input: Tensor, hx: tuple[Tensor, Tensor], weights: list[Tensor], bias: bool, layers: int,
    bidirectional: bool, between: Between, batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As ``torch._VF.lstm``, without projections: (states of the last layer, last states, last cells)."""

    def one(number: int, x: Tensor, own: Weights) -> Tensor:
        states: Tensor
        states, cell = _Lstm.apply(x, hx[0][number], hx[1][number], *own)
        last.append(states[-1])
        cells.append(cell)
        return states

    last: list[Tensor] = []
    cells: list[Tensor] = []
    seen = stacked(input, weights, bias, layers, bidirectional, between, batch_first, one)
    return seen, torch.stack(last), torch.stack(cells)


class _Lstm(torch.autograd.Function):
    """One layer in one direction. x: (steps, batch, inputs); states: (steps, batch, hidden), and the last
    cell, (batch, hidden)."""

    @staticmethod
    def forward(
        x: Tensor, start: Tensor, cell: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
    ) -> tuple[Tensor, Tensor]:
        made: tuple[Tensor, Tensor] = torch.ops.marram.lstm(x, start, cell, w_ih, w_hh, b_ih, b_hh)
        return made

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
        ctx.save_for_backward(*inputs, output[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_last: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        x, start, cell, w_ih, w_hh, b_ih, b_hh, states = ctx.saved_tensors
        before = torch.cat([start[None], states[:-1]])
        i, f, g, o = (rows(x, w_ih, b_ih) + rows(before, w_hh, b_hh)).chunk(4, 2)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        cells = torch.ops.marram.lstm_cells(i * g, f, cell)
        earlier, seen = torch.cat([cell[None], cells[:-1]]), torch.tanh(cells)
        # The gradients of the gates are these times the gradient of the cell, the last one of the state.
        of_gates = torch.cat(
            [g * i * (1 - i), earlier * f * (1 - f), i * (1 - g * g), seen * o * (1 - o)], dim=2
        )
        gates, of_start, of_cell = torch.ops.marram.lstm_back(
            gradient, of_last, of_gates, o * (1 - seen * seen), f, w_hh
        )
        flat = gates.reshape(-1, gates.shape[2])
        of_bias = flat.sum(0)
        return (
            (flat @ w_ih).reshape(x.shape),
            of_start,
            of_cell,
            flat.T @ x.reshape(-1, x.shape[2]),
            flat.T @ before.reshape(-1, before.shape[2]),
            of_bias,
            of_bias,
        )


def cell(
    x: Tensor, hx: tuple[Tensor, Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As ``torch._VF.lstm_cell``: one step. x: (batch, inputs)."""
    return _step(functional.linear(x, w_ih, b_ih) + functional.linear(hx[0], w_hh, b_hh), hx[1])


def _step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = gates.chunk(4, 1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _forward(
    x: Tensor, start: Tensor, cell: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, Tensor]:
    states, state = [], start
    cell = cell.clone()
    for from_input in rows(x, w_ih, b_ih):
        state, cell = _step(from_input + torch.addmm(b_hh, state, w_hh.T), cell)
        states.append(state)
    return torch.stack(states), cell


def _cells(added: Tensor, kept: Tensor, cell: Tensor) -> Tensor:
    cells = []
    for step in range(added.shape[0]):
        cell = kept[step] * cell + added[step]
        cells.append(cell)
    return torch.stack(cells)


def _back(
    gradient: Tensor, of_last: Tensor, of_gates: Tensor, of_cell: Tensor, kept: Tensor, w_hh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(gradients of the gates of all steps, of the state and the cell before the first)."""
    made, carried, cell = [], torch.zeros_like(gradient[0]), of_last.clone()
    for step in reversed(range(gradient.shape[0])):
        total = gradient[step] + carried
        cell = cell + total * of_cell[step]
        gates = torch.cat([cell, cell, cell, total], 1) * of_gates[step]
        carried, cell = gates @ w_hh, cell * kept[step]
        made.append(gates)
    return torch.stack(made[::-1]), carried, cell


define(
    "lstm",
    "(Tensor x, Tensor start, Tensor cell, Tensor w_ih, Tensor w_hh, Tensor b_ih, Tensor b_hh)"
    " -> (Tensor, Tensor)",
    _forward,
    lambda x, start, cell, w_ih, w_hh, b_ih, b_hh: (
        x.new_empty(x.shape[0], x.shape[1], w_hh.shape[1]), torch.empty_like(cell)
    ),
)  # fmt: skip
PLAIN = {torch.ops.marram.lstm.default: _forward}
"""The forward pass by PyTorch's own operators, for a converter that does not know ours."""
define(
    "lstm_cells", "(Tensor added, Tensor kept, Tensor cell) -> Tensor", _cells,
    lambda added, kept, cell: torch.empty_like(added),
)  # fmt: skip
define(
    "lstm_back",
    "(Tensor gradient, Tensor of_last, Tensor of_gates, Tensor of_cell, Tensor kept, Tensor w_hh)"
    " -> (Tensor, Tensor, Tensor)",
    _back,
    lambda gradient, of_last, of_gates, of_cell, kept, w_hh: (
        torch.empty_like(of_gates), torch.empty_like(of_last), torch.empty_like(of_last)
    ),
)  # fmt: skip


def lstm_to_onnx(
    x: Value, start: Value, cell: Value, w_ih: Value, w_hh: Value, b_ih: Value, b_hh: Value
) -> tuple[Value, Value]:
    """ONNX's LSTM, whose gates stand in another order: (steps, batch, hidden), the last cell."""
    hidden = int(w_hh.shape[1])
    bias = op.Concat(_reordered(b_ih, hidden), _reordered(b_hh, hidden), axis=0)
    first = op.Constant(value_ints=[0])
    states, _, last = op.LSTM(
        x, op.Unsqueeze(_reordered(w_ih, hidden), first), op.Unsqueeze(_reordered(w_hh, hidden), first),
        op.Unsqueeze(bias, first), None, op.Unsqueeze(start, first), op.Unsqueeze(cell, first),
        hidden_size=hidden,
    )  # fmt: skip
    return op.Squeeze(states, op.Constant(value_ints=[1])), op.Squeeze(last, first)


def _reordered(value: Value, hidden: int) -> Value:
    """input, forget, cell, output -> input, output, forget, cell."""
    return reordered(value, hidden, (0, 3, 1, 2))


def lstm_cells_to_onnx(added: Value, kept: Value, cell: Value) -> Value:
    """A Scan from the first step to the last."""
    nodes = [
        helper.make_node("Mul", ["kept", "cell"], ["past"]),
        helper.make_node("Add", ["past", "added"], ["next"]),
        helper.make_node("Identity", ["next"], ["out"]),
    ]
    body = graph("cells", nodes, ("cell", "added", "kept"), ("next", "out"))
    return scan(body, [cell], [added, kept])[1]


def lstm_back_to_onnx(
    gradient: Value, of_last: Value, of_gates: Value, of_cell: Value, kept: Value, w_hh: Value
) -> tuple[Value, Value, Value]:
    """A Scan from the last step to the first."""
    _, of_start, of_first, gates = scan(
        _back_step(), [w_hh, nothing_like(gradient), of_last], [gradient, of_gates, of_cell, kept], back=True
    )
    return gates, of_start, of_first


def _back_step() -> onnx.GraphProto:
    """One step of ``_back``."""
    nodes = [
        helper.make_node("Identity", ["w"], ["same"]),
        helper.make_node("Add", ["dy", "carried"], ["total"]),
        helper.make_node("Mul", ["total", "of_cell"], ["through_state"]),
        helper.make_node("Add", ["cell", "through_state"], ["whole"]),
        helper.make_node("Concat", ["whole", "whole", "whole", "total"], ["four"], axis=1),
        helper.make_node("Mul", ["four", "of_gates"], ["gates"]),
        helper.make_node("MatMul", ["gates", "w"], ["next"]),
        helper.make_node("Mul", ["whole", "kept"], ["next_cell"]),
        helper.make_node("Identity", ["gates"], ["out"]),
    ]
    inputs = ("w", "carried", "cell", "dy", "of_gates", "of_cell", "kept")
    return graph("back", nodes, inputs, ("same", "next", "next_cell", "out"))
