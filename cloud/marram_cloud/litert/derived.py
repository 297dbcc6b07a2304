"""What converters calculate from the parameters: a normalisation folded into a layer beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from marram.programs.program import load
from numpy.typing import NDArray
from onnx import TensorProto, helper

Floats = NDArray[np.float32]

_EPSILON = 1e-5  # ONNX's default
_AFFINE = ("Mul", "Add", "Sub", "BatchNormalization")
_PASSING = ("Reshape", "Transpose", "Squeeze", "ReduceMean")  # each channel goes through as it is


@dataclass(frozen=True)
class _Chain:
    """A convolution or dense layer, and the affine steps behind it, whose other sides depend on the
    parameters only.
    """

    layer: onnx.NodeProto
    steps: tuple[onnx.NodeProto, ...]

    @property
    def names(self) -> set[str]:
        return {name for node in (self.layer, *self.steps) for name in node.input if name}


@dataclass(frozen=True)
class _Front:
    """A dense layer, and the LayerNormalization whose scale and shift go into it."""

    norm: onnx.NodeProto
    layer: onnx.NodeProto

    @property
    def names(self) -> set[str]:
        return {name for name in (*self.norm.input[1:], *self.layer.input[1:]) if name}


def derived(predict: bytes, parameters: Floats) -> dict[str, Floats]:
    """By name, for each layer of predict.onnx: its weight and bias with what is behind it folded in,
    and that scale and shift alone (Jacob et al., arXiv 1712.05877, section 3.2); for each dense layer behind
    a LayerNormalization its weight and bias with that one's scale and shift. parameters: float32 (P,).
    """
    graph = onnx.load_from_string(predict).graph
    moving = _moving(graph)
    chains, fronts = _chains(graph, moving), _fronts(graph, moving)
    names = set().union(*(one.names for one in chains), *(one.names for one in fronts))
    values = _values(predict, parameters, names - moving)
    made: dict[str, Floats] = {}
    for number, chain in enumerate(chains):
        made |= {f"{number}.{name}": value for name, value in _folded(chain, values)}
    for number, front in enumerate(fronts):
        made |= {f"front.{number}.{name}": value for name, value in _scaled(front, values)}
    return made


def _moving(graph: onnx.GraphProto) -> set[str]:
    """What depends on the window."""
    moving = {"x"}
    for node in graph.node:
        if moving.intersection(node.input):
            moving.update(node.output)
    return moving


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def _chains(graph: onnx.GraphProto, moving: set[str]) -> list[_Chain]:
    readers = _readers(graph)
    chains = []
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm") or not moving.isdisjoint(node.input[1:]):
            continue
        steps, last = [], node
        while len(behind := readers[last.output[0]]) == 1 and behind[0].op_type in _AFFINE:
            (last,) = behind
            if len(moving.intersection(last.input)) != 1 or (
                last.op_type == "Sub" and last.input[0] not in moving
            ):
                break
            steps.append(last)
        if steps:
            chains.append(_Chain(node, tuple(steps)))
    return chains


def _fronts(graph: onnx.GraphProto, moving: set[str]) -> list[_Front]:
    readers = _readers(graph)
    fronts = []
    for node in graph.node:
        if node.op_type != "LayerNormalization" or not moving.isdisjoint(node.input[1:]):
            continue
        last = node
        while len(behind := readers[last.output[0]]) == 1 and behind[0].op_type in _PASSING:
            (last,) = behind
        if len(behind) == 1 and behind[0].op_type == "Gemm" and moving.isdisjoint(behind[0].input[1:]):
            fronts.append(_Front(node, behind[0]))
    return fronts


def _weight(layer: onnx.NodeProto, values: Mapping[str, Floats]) -> tuple[Floats, list[Floats]]:
    """(weight, of a dense layer as (out, in); bias, if it has one)."""
    weight, *bias = (values[name] for name in layer.input[1:] if name)
    turned = layer.op_type == "Gemm" and not any(one.name == "transB" and one.i for one in layer.attribute)
    return (weight.T if turned else weight), bias


def _scaled(front: _Front, values: Mapping[str, Floats]) -> Iterator[tuple[str, Floats]]:
    scale, *shift = (values[name] for name in front.norm.input[1:] if name)
    weight, bias = _weight(front.layer, values)
    if weight.shape[1:] != scale.shape:
        return
    yield "weight", weight * scale
    if shift:
        moved = weight @ shift[0]
        yield "shift", moved
        yield "bias", moved + bias[0] if bias else moved


def _folded(chain: _Chain, values: Mapping[str, Floats]) -> Iterator[tuple[str, Floats]]:
    weight, bias = _weight(chain.layer, values)
    channels = len(weight)
    scale, shift = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    for number, step in enumerate(chain.steps):
        factor, offset = _affine(step, values)
        if factor.size not in (1, channels) or offset.size not in (1, channels):
            return
        scale, shift = scale * factor, shift * factor + offset
        yield f"{number}.scale", scale
        yield f"{number}.shift", shift
        yield f"{number}.weight", weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
        if bias:
            yield f"{number}.bias", bias[0] * scale + shift


def _affine(step: onnx.NodeProto, values: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """(factor, offset) by channel: y = factor * x + offset."""
    if step.op_type == "BatchNormalization":
        scale, shift, mean, variance = (values[name] for name in step.input[1:])
        epsilon = np.float32(next((one.f for one in step.attribute if one.name == "epsilon"), _EPSILON))
        factor = scale / np.sqrt(variance + epsilon)
        return factor, shift - mean * factor
    (other,) = (values[name].reshape(-1) for name in step.input if name in values)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    if step.op_type == "Mul":
        return other, zero
    return one, -other if step.op_type == "Sub" else other


def _values(predict: bytes, parameters: Floats, names: set[str]) -> dict[str, Floats]:
    """Values of predict.onnx that depend on the parameters only."""
    model = onnx.load_from_string(predict)
    graph = model.graph
    needed, kept = set(names), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    given = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    made = sorted(names - given.keys())
    graph.ClearField("node")
    graph.node.extend(reversed(kept))
    graph.ClearField("output")
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in made)
    inputs = [one for one in graph.input if one.name != "x"]
    graph.ClearField("input")
    graph.input.extend(inputs)
    found = load(model.SerializeToString(), "onnx")(parameters=parameters) if made else {}
    return {name: np.asarray(given.get(name, found.get(name)), np.float32) for name in names}
