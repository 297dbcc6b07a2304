"""Releases of the shoulder model as they would come: good ones, and bundles that are bad in one way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import msgspec
import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric import ec
from marram.bundle.file import encode
from marram.wire.certificates import Subject
from marram.wire.envelope import KeySigner
from marram.wire.messages import Release
from marram.wire.signed import Author
from onnx import TensorProto, helper, numpy_helper

from tests.support.aggregator import TOPICS
from tests.support.windows import SHOULDER, bundle

MODEL = "shoulder"
PART = 16 * 1024


@cache
def release_key(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def released(version: str = "1", **members: bytes) -> bytes:
    """The shoulder bundle under another version; members replace files ("infer.onnx" as infer)."""
    source = bundle(SHOULDER)
    files = {**source.members, **{f"{name}.onnx": content for name, content in members.items()}}
    return encode(msgspec.structs.replace(source.manifest, version=version), files)


@cache
def another_family() -> bytes:
    source = bundle(SHOULDER)
    return encode(msgspec.structs.replace(source.manifest, version="1", rate=25.0), dict(source.members))


def infer(node: str) -> bytes:
    """An infer.onnx with the right tensors: scores (batch, 7) that are all the float that ``node`` gives.

    node: "nan", "fine", or "hungry" (as fine, but it needs 4 GiB on the way).
    """
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6, 100])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 7])
    value = np.float32(np.nan if node == "nan" else 0)
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sums"], keepdims=0),
        helper.make_node("Unsqueeze", ["sums", "one"], ["column"]),
        helper.make_node("Mul", ["column", "seven"], ["row"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.full((1, 7), value, np.float32), "seven"),
    ]
    last = "row"
    if node == "hungry":
        constants.append(numpy_helper.from_array(np.array([1 << 30], np.int64), "many"))
        # The length depends on the input, so that no optimiser folds it away.
        nodes += [
            helper.make_node("Shape", ["sums"], ["count"]),
            helper.make_node("Mul", ["count", "many"], ["length"]),
            helper.make_node("ConstantOfShape", ["length"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["row", "nothing"], ["fed"]),
        ]
        last = "fed"
    nodes.append(helper.make_node("Identity", [last], ["scores"]))
    graph = helper.make_graph(nodes, "infer", [x], [scores], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@dataclass(frozen=True)
class Announced:
    """A release as the broker holds it: its signed word and its parts by topic."""

    message: tuple[str, bytes]
    parts: dict[str, bytes]


def announced(
    content: bytes, sequence: int = 1, key: int = 0, topic: str | None = None, fleet: str = "fleet",
    **changes: object,
) -> Announced:  # fmt: skip
    digest = hashlib.sha256(content).digest()
    fields = {
        "model": MODEL, "version": f"v{sequence}", "sequence": sequence, "digest": digest,
        "size": len(content), "part_size": PART, **changes,
    }  # fmt: skip
    release = Release(**fields)
    author = Author(Subject(fleet, "region", "aggregator", "release"), KeySigner(release_key(key)))
    topic = topic or TOPICS.release(MODEL)
    pieces = [content[start : start + PART] for start in range(0, len(content), PART)]
    return Announced(
        (TOPICS.release(MODEL), author.seal(release, topic, sequence)),
        {
            TOPICS.release_part(MODEL, release.digest.hex()[:16], part): piece
            for part, piece in enumerate(pieces)
        },
    )
