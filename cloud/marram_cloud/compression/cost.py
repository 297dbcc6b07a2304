"""What a program costs to run: multiplications, from the graph; time and memory, measured in a process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.folding import fold

_RUNS = 1000
_TIMEOUT = 300.0


class Cost(msgspec.Struct, frozen=True):
    """Of one call, on one thread of this machine. p50, p99: microseconds. memory: bytes that the program, its
    buffers and its outputs added to the process. process: peak resident bytes of all of it."""

    p50: float
    p99: float
    memory: int
    process: int


@dataclass(frozen=True)
class Work:
    """macs: multiply-accumulates for one window. layers: the same by the node's name."""

    macs: int
    layers: Mapping[str, int]


def measure_cost(
    program: bytes,
    inputs: Mapping[str, NDArray[Any]],
    runs: int = _RUNS,
    runtime: Literal["onnx", "tflite"] = "onnx",
) -> Cost:
    """Run the program ``runs`` times in a process of its own. Raises CompressionError when that fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / f"program.{runtime}").write_bytes(program)
        arrays: dict[str, Any] = dict(inputs)
        np.savez(folder / "inputs.npz", **arrays)
        done = subprocess.run(
            [sys.executable, "-I", "-m", "marram_cloud.compression.probe", str(folder), str(runs)],
            capture_output=True, text=True, timeout=_TIMEOUT, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise CompressionError(f"the program could not be measured: {last}")
    return msgspec.convert(json.loads(done.stdout), Cost)


def work(predict: bytes, parameters: NDArray[np.float32]) -> Work:
    """Multiply-accumulates of convolutions and matrix products for a batch of one."""
    folded = fold(predict, parameters)
    for value in folded.graph.input:
        shape = value.type.tensor_type.shape
        if shape.dim and shape.dim[0].HasField("dim_param"):
            shape.dim[0].dim_value = 1
    # Inferred outputs are kept where they are there already, with a batch of another name.
    del folded.graph.output[1:]
    folded.graph.output[0].type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(folded, data_prop=True).graph
    shapes = {
        value.name: [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.input, *graph.output]
    }
    shapes |= {value.name: list(value.dims) for value in graph.initializer}
    layers = {node.name: _macs(node, shapes) for node in graph.node}
    counted = {name: macs for name, macs in layers.items() if macs}
    return Work(sum(counted.values()), counted)


def _macs(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> int:
    if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
        return 0
    left, right, made = (shapes.get(name) for name in (node.input[0], node.input[1], node.output[0]))
    if not left or not right or not made:
        return 0
    if node.op_type == "Conv":
        return math.prod(made) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    turned = any(one.name == "transA" and one.i for one in node.attribute)
    return math.prod(made) * left[0 if turned else -1]
