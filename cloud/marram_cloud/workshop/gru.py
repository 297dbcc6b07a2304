"""Gated recurrent units (GRU; Cho et al., 2014, in PyTorch's form) as two operators.

Forward is ONNX's own GRU. Backward computes all gates of all steps at once from the states that forward gave;
only the gradient of the state itself goes back step by step, in a Scan of six operators.
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


def gru(
    input: Tensor, hx: Tensor, weights: list[Tensor], bias: bool, layers: int, bidirectional: bool,
    between: Between, batch_first: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As ``torch._VF.gru``: (states of the last layer, last states)."""

    def one(number: int, x: Tensor, own: Weights) -> Tensor:
        states: Tensor = _Gru.apply(x, hx[number], *own)
        last.append(states[-1])
        return states

    last: list[Tensor] = []
    seen = stacked(input, weights, bias, layers, bidirectional, between, batch_first, one)
    return seen, torch.stack(last)


class _Gru(torch.autograd.Function):
    """One layer in one direction. x: (steps, batch, inputs); states: (steps, batch, hidden)."""

    @staticmethod
    def forward(x: Tensor, start: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
        states: Tensor = torch.ops.marram.gru(x, start, w_ih, w_hh, b_ih, b_hh)
        return states

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ANN401
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        x, start, w_ih, w_hh, b_ih, b_hh, states = ctx.saved_tensors
        before = torch.cat([start[None], states[:-1]])
        from_input, from_state = rows(x, w_ih, b_ih), rows(before, w_hh, b_hh)
        (r_in, z_in, n_in), (r_st, z_st, n_st) = from_input.chunk(3, 2), from_state.chunk(3, 2)
        r, z = torch.sigmoid(r_in + r_st), torch.sigmoid(z_in + z_st)
        n = torch.tanh(n_in + r * n_st)
        # The gradients of the three gates are these times the gradient of the state.
        of_n = (1 - z) * (1 - n * n)
        of_z = (before - n) * z * (1 - z)
        of_r = of_n * n_st * r * (1 - r)
        of_state = torch.cat([of_r, of_z, of_n * r], dim=2)
        total, of_start = torch.ops.marram.gru_back(gradient, of_state, z, w_hh)
        three = torch.cat([total, total, total], dim=2)
        to_input, to_state = three * torch.cat([of_r, of_z, of_n], dim=2), three * of_state
        flat_in, flat_st = to_input.reshape(-1, to_input.shape[2]), to_state.reshape(-1, to_state.shape[2])
        return (
            (flat_in @ w_ih).reshape(x.shape),
            of_start,
            flat_in.T @ x.reshape(-1, x.shape[2]),
            flat_st.T @ before.reshape(-1, before.shape[2]),
            flat_in.sum(0),
            flat_st.sum(0),
        )


def cell(
    x: Tensor, state: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None
) -> Tensor:
    """As ``torch._VF.gru_cell``: one step. x: (batch, inputs)."""
    return _step(functional.linear(x, w_ih, b_ih), functional.linear(state, w_hh, b_hh), state)


def _step(from_input: Tensor, from_state: Tensor, state: Tensor) -> Tensor:
    r_in, z_in, n_in = from_input.chunk(3, 1)
    r_st, z_st, n_st = from_state.chunk(3, 1)
    n = torch.tanh(n_in + torch.sigmoid(r_in + r_st) * n_st)
    return n + torch.sigmoid(z_in + z_st) * (state - n)


def _forward(x: Tensor, start: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    states, state = [], start
    for gates in rows(x, w_ih, b_ih):
        state = _step(gates, torch.addmm(b_hh, state, w_hh.T), state)
        states.append(state)
    return torch.stack(states)


def _back(gradient: Tensor, of_state: Tensor, z: Tensor, w_hh: Tensor) -> tuple[Tensor, Tensor]:
    """(gradients of the states of all steps, of the state before the first)."""
    totals, carried = [], torch.zeros_like(gradient[0])
    for step in reversed(range(gradient.shape[0])):
        total = gradient[step] + carried
        carried = total * z[step] + (torch.cat([total, total, total], 1) * of_state[step]) @ w_hh
        totals.append(total)
    return torch.stack(totals[::-1]), carried


define(
    "gru", "(Tensor x, Tensor start, Tensor w_ih, Tensor w_hh, Tensor b_ih, Tensor b_hh) -> Tensor", _forward,
    lambda x, start, w_ih, w_hh, b_ih, b_hh: x.new_empty(x.shape[0], x.shape[1], w_hh.shape[1]),
)  # fmt: skip
PLAIN = {torch.ops.marram.gru.default: _forward}
"""The forward pass by PyTorch's own operators, for a converter that does not know ours."""
define(
    "gru_back", "(Tensor gradient, Tensor of_state, Tensor z, Tensor w_hh) -> (Tensor, Tensor)", _back,
    lambda gradient, of_state, z, w_hh: (torch.empty_like(gradient), torch.empty_like(gradient[0])),
)  # fmt: skip


def gru_to_onnx(x: Value, start: Value, w_ih: Value, w_hh: Value, b_ih: Value, b_hh: Value) -> Value:
    """ONNX's GRU, whose gates stand in another order: (steps, batch, hidden)."""
    hidden = int(w_hh.shape[1])
    bias = op.Concat(_reordered(b_ih, hidden), _reordered(b_hh, hidden), axis=0)
    first = op.Constant(value_ints=[0])
    states, _ = op.GRU(
        x, op.Unsqueeze(_reordered(w_ih, hidden), first), op.Unsqueeze(_reordered(w_hh, hidden), first),
        op.Unsqueeze(bias, first), None, op.Unsqueeze(start, first), hidden_size=hidden,
        linear_before_reset=1,
    )  # fmt: skip
    return op.Squeeze(states, op.Constant(value_ints=[1]))


def _reordered(value: Value, hidden: int) -> Value:
    """reset, update, new -> update, reset, new."""
    return reordered(value, hidden, (1, 0, 2))


def gru_back_to_onnx(gradient: Value, of_state: Value, z: Value, w_hh: Value) -> tuple[Value, Value]:
    """A Scan from the last step to the first."""
    _, of_start, totals = scan(
        _back_step(), [w_hh, nothing_like(gradient)], [gradient, of_state, z], back=True
    )
    return totals, of_start


def _back_step() -> onnx.GraphProto:
    """One step of ``_back``; the weights go through as a state, for a body sees nothing else."""

    nodes = [
        helper.make_node("Identity", ["w"], ["same"]),
        helper.make_node("Add", ["dy", "carried"], ["total"]),
        helper.make_node("Concat", ["total", "total", "total"], ["three"], axis=1),
        helper.make_node("Mul", ["three", "of"], ["gates"]),
        helper.make_node("MatMul", ["gates", "w"], ["through"]),
        helper.make_node("Mul", ["total", "z"], ["past"]),
        helper.make_node("Add", ["past", "through"], ["next"]),
        helper.make_node("Identity", ["total"], ["out"]),
    ]
    return graph("back", nodes, ("w", "carried", "dy", "of", "z"), ("same", "next", "out"))
