"""docs/protocol-encoding.md: every worked example on the page is what the code does, to the byte."""

import re
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from marram.wire import cbor, chunks, envelope, messages, signed, trees
from marram.wire.codec import Chain, device_seed, seed

from tests.unit.wire.test_cose_vectors import RFC8032_SECRET_1

PAGE = Path(__file__).parents[3] / "docs" / "protocol-encoding.md"
TOPIC = "marram/dunes/north/device/a1/up/decline"
VECTOR = np.array([0.5, -0.25, 0.125, 1.0, -1.5, 0.75], np.float32)


def message() -> bytes:
    return cbor.pack(messages.Decline(3, "on battery"))


def sealed() -> bytes:
    signer = envelope.KeySigner(ed25519.Ed25519PrivateKey.from_private_bytes(RFC8032_SECRET_1))
    header = envelope.Header(
        content_type=signed.content_type(messages.Decline),
        fleet="dunes",
        sender="a1",
        counter=7,
        key_id=signer.key_id,
        round=3,
    )
    return envelope.seal(message(), header, TOPIC, signer)


def encoded(spec: str) -> bytes:
    return Chain.parse(spec).encode(VECTOR, 42).payload


def decoded(spec: str) -> bytes:
    return Chain.parse(spec).decode(encoded(spec), len(VECTOR), 42).astype("<f4").tobytes()


def told() -> bytes:
    tree = trees.Tree(
        np.array([2, 0]), np.array([1.5, -0.25], np.float32), np.array([[1, 2], [3, 4]]),
        np.array([[1, 0], [0.25, 0.75], [0, 1]], np.float32),
    )  # fmt: skip
    return trees.encode(trees.Contribution((tree,), 20, np.array([18, 9])))


def frame(index: int) -> bytes:
    return chunks.split(b"marram grass holds the dune", 58)[index]


EXAMPLES = {
    "message": message,
    "envelope": sealed,
    "chunk 0": lambda: frame(0),
    "chunk 1": lambda: frame(1),
    "stream": lambda: seed.stream(42, "rotate", 4),
    "device seed": lambda: device_seed(42, "a1").to_bytes(8, "big"),
    "one bit": lambda: encoded("rotate(4)|quantise(1)"),
    "one bit decoded": lambda: decoded("rotate(4)|quantise(1)"),
    "four bits": lambda: encoded("quantise(4,8)"),
    "eight bits": lambda: encoded("quantise(8)"),
    "topk": lambda: encoded("topk(0.34)|float16"),
    "randk": lambda: encoded("randk(0.34)|float16"),
    "trees": told,
}


def on_the_page() -> dict[str, bytes]:
    """The hex blocks of the page; what follows a # in a line is a remark."""
    blocks = re.findall(r"```hex (.+?)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return {name: bytes.fromhex(re.sub(r"#.*", "", text)) for name, text in blocks}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    assert on_the_page()[name].hex() == EXAMPLES[name]().hex()


def test_no_example_is_unchecked():
    assert on_the_page().keys() == EXAMPLES.keys()
