"""Tiny models, made with the onnx package, and bundles of them: what the example bundles are too good for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import onnx
from marram.bundle.file import encode, encode_parameters
from marram.bundle.manifest import Channel, Manifest, ProgramFile
from marram.programs.program import Tensor
from onnx import TensorProto, helper, numpy_helper

CHANNELS, LENGTH, LABELS = ("x", "y"), 4, ("low", "high")


def model(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: dict[str, np.ndarray] | None = None,
    shape: Sequence[int | str] = ("batch", len(CHANNELS), LENGTH),
    kind: int = TensorProto.FLOAT,
    domains: Sequence[str] = (),
) -> bytes:
    """An ONNX model with the input x."""
    graph = helper.make_graph(
        list(nodes),
        "model",
        [helper.make_tensor_value_info("x", kind, shape)],
        list(outputs),
        [numpy_helper.from_array(value, name) for name, value in (initializers or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    data: bytes = made.SerializeToString()
    return data


def output(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def classifier(
    weight: float = 1.0,
    operator: str = "Softmax",
    domain: str = "",
    shape: Sequence[int | str] = ("batch", len(CHANNELS), LENGTH),
) -> bytes:
    """scores = softmax((-m, m)), m = weight * the mean of a window: above 0 it is "high".

    operator: what stands in place of Softmax, of an operator set that this runtime may lack.
    """
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["column"]),
        helper.make_node("Mul", ["column", "weights"], ["logits"]),
        helper.make_node(operator, ["logits"], ["scores"], domain=domain),
    ]
    weights = np.array([-weight, weight], np.float32)
    initializers = {"axis": np.array([1], np.int64), "weights": weights}
    domains = [domain] if domain else []
    return model(nodes, [output("scores", ("batch", 2))], initializers, shape, domains=domains)


def linear(weights: np.ndarray, shape: Sequence[int | str]) -> bytes:
    """scores = softmax(weights @ window), weights float32 (labels, channels * length)."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["row"]),
        helper.make_node("Gemm", ["row", "weights"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    given = {"weights": weights.astype(np.float32)}
    return model(nodes, [output("scores", ("batch", len(weights)))], given, shape)


def manifest(**changes: object) -> Manifest:
    """The manifest of a bundle around ``classifier``."""
    made = Manifest(
        name="tiny",
        version="1",
        task="classify",
        channels=tuple(Channel(name) for name in CHANNELS),
        rate=10.0,
        length=LENGTH,
        stride=LENGTH,
        programs={
            "infer": ProgramFile(
                "infer.onnx",
                "onnx",
                (Tensor("x", "float32", ("batch", len(CHANNELS), LENGTH)),),
                (Tensor("scores", "float32", ("batch", 2)),),
            )
        },
        parameters=(Tensor("w", "float32", (3,)),),
        members={},
        labels=LABELS,
    )
    return msgspec.structs.replace(made, **changes)


def both_forms(onnx_form: bytes, tflite_form: bytes) -> bytes:
    """A bundle that carries a program for each runtime."""
    about = manifest().programs["infer"]
    second = msgspec.structs.replace(about, file="infer.tflite", runtime="tflite")
    programs = {"infer": about, "infer_tflite": second}
    return bundle(onnx_form, {"infer.tflite": tflite_form}, programs=programs)


def bundle(infer: bytes | None = None, members: dict[str, bytes] | None = None, **changes: object) -> bytes:
    """The bytes of a whole bundle. members: in place of, or beside, those that belong to it."""
    made = manifest(**changes)
    parts = {
        "infer.onnx": classifier() if infer is None else infer,
        "parameters.safetensors": encode_parameters(manifest(), np.zeros(3, np.float32)),
    }
    return encode(made, parts | (members or {}))
