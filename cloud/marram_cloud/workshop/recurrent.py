"""What GRU and LSTM share: layers and directions, and loops in ONNX.

A recurrent layer is a few operators of ours instead of thousands of plain ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnx_ir
import torch
from onnx import NodeProto, TensorProto, helper
from onnxscript import opset18 as op
from torch import Tensor

# ONNX values while a graph is traced; onnxscript has no public type for them.
Value = Any
Between = Callable[[Tensor], Tensor]
"""What stands between layers."""
Weights = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of one layer in one direction: of its input, of its state, and the bias of each."""


def stacked(
    input: Tensor, weights: list[Tensor], bias: bool, layers: int, bidirectional: bool, between: Between,
    batch_first: bool, one: Callable[[int, Tensor, Weights], Tensor],
) -> Tensor:  # fmt: skip
    """The states of the last layer.

    one(number, x, weights): those of one layer in one direction, (steps, batch, hidden), of x (steps, batch,
    inputs); they are numbered as PyTorch does.
    """
    seen = input.transpose(0, 1) if batch_first else input
    ways, each = (2 if bidirectional else 1), (4 if bias else 2)
    for layer in range(layers):
        made = []
        for way in range(ways):
            number = layer * ways + way
            own = weights[number * each : (number + 1) * each]
            w_ih, w_hh = own[0], own[1]
            b_ih, b_hh = own[2:] if bias else (w_ih.new_zeros(w_ih.shape[0]), w_ih.new_zeros(w_ih.shape[0]))
            states = one(number, seen.flip(0) if way else seen, (w_ih, w_hh, b_ih, b_hh))
            made.append(states.flip(0) if way else states)
        seen = torch.cat(made, dim=2)
        if layer < layers - 1:
            seen = between(seen)
    return seen.transpose(0, 1) if batch_first else seen


def rnn(
    input: Tensor, hx: Tensor, weights: list[Tensor], bias: bool, layers: int, bidirectional: bool,
    between: Between, batch_first: bool, bend: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As ``torch._VF.rnn_tanh`` (Elman, 1990), in plain operators, some for each step. bend: tanh or relu."""

    def one(number: int, x: Tensor, own: Weights) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = own
        state, states = hx[number], []
        for from_input in rows(x, w_ih, b_ih).unbind(0):
            state = bend(from_input + torch.addmm(b_hh, state, w_hh.T))
            states.append(state)
        last.append(state)
        return torch.stack(states)

    last: list[Tensor] = []
    seen = stacked(input, weights, bias, layers, bidirectional, between, batch_first, one)
    return seen, torch.stack(last)


def rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer over (steps, batch, inputs)."""
    return torch.addmm(bias, x.reshape(-1, x.shape[2]), weight.T).reshape(x.shape[0], -1, weight.shape[0])


def reordered(value: Value, hidden: int, order: Sequence[int]) -> Value:
    """Gates in ONNX's order: which of PyTorch's comes where."""
    places = [place for gate in order for place in range(gate * hidden, (gate + 1) * hidden)]
    return op.Gather(value, op.Constant(value_ints=places), axis=0)


def nothing_like(steps: Value) -> Value:
    """Zeros of the shape of one step."""
    return op.Mul(op.Gather(steps, op.Constant(value_int=0), axis=0), op.Constant(value_float=0.0))


def scan(body: onnx.GraphProto, carried: list[Value], steps: list[Value], back: bool = False) -> list[Value]:
    """What is carried after the last step, and one output of all steps. back: from the last to the first."""
    way = 1 if back else 0
    first = op.Scan(
        *carried, *steps, body=onnx_ir.from_proto(body), num_scan_inputs=len(steps),
        scan_input_directions=[way] * len(steps), scan_output_directions=[way],
    )  # fmt: skip
    # The exporter thinks that a Scan has one output.
    made = first.producer()
    made.resize_outputs(len(carried) + 1)
    return list(made.outputs)


def graph(
    name: str, nodes: list[NodeProto], inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.GraphProto:
    """The body of a Scan. It sees nothing else: weights that it needs go through as a state."""
    values = [
        [helper.make_tensor_value_info(one, TensorProto.FLOAT, None) for one in names]
        for names in (inputs, outputs)
    ]
    return helper.make_graph(nodes, name, *values)
