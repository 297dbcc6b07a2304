"""Strict CBOR: what is written is deterministic, what is read is either sound or refused as MALFORMED."""

import math
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.errors import WireError
from marram.wire import cbor, messages, reasons

SCALARS = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats() | st.binary() | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text() | st.integers(-(2**64), 2**64 - 1), inner, max_size=5)
    ),
    max_leaves=20,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def refused(data: bytes, **limits: Any) -> str:
    with pytest.raises(WireError) as caught:
        cbor.decode(data, **limits)
    assert caught.value.reason == reasons.MALFORMED
    return str(caught.value)


@given(VALUES)
def test_roundtrip(value):
    assert same(cbor.decode(cbor.encode(value)), value)


@given(VALUES)
def test_agrees_with_cbor2(value):
    assert same(cbor.decode(cbor2.dumps(value)), value)
    assert same(value, cbor2.loads(cbor.encode(value)))


@pytest.mark.parametrize(
    ("value", "hex_"),
    [
        (0, "00"), (23, "17"), (24, "1818"), (256, "190100"), (65536, "1a00010000"),
        (2**32, "1b0000000100000000"),
        (-1, "20"), (-(2**64), "3bffffffffffffffff"), (1.0, "f93c00"), (1.1, "fb3ff199999999999a"),
        (100000.0, "fa47c35000"), (float("inf"), "f97c00"), (float("nan"), "f97e00"),
        (5.960464477539063e-08, "f90001"),
        (b"\x01", "4101"), ("ü", "62c3bc"), ([1, [2]], "8201" "8102"), (None, "f6"), (True, "f5"),
        (cbor.Tagged(18, 1), "d201"),
        # RFC 8949, section 4.2.1: its own list of keys, those that messages may have.
        ({"aa": 5, "z": 4, -1: 3, 100: 2, 10: 1}, "a50a01" "186402" "2003" "617a04" "62616105"),
    ],
)  # fmt: skip
def test_deterministic_encoding(value, hex_):
    assert cbor.encode(value).hex() == hex_


@pytest.mark.parametrize(
    ("hex_", "what"),
    [
        ("", "cut off"), ("18", "cut off"), ("5901", "cut off"), ("4201", "cut off"),
        ("8201", "cut off"),
        ("0000", "follow"), ("1817", "longer head"), ("190017", "longer head"),
        ("1a0000ffff", "longer head"),
        ("1b00000000ffffffff", "longer head"), ("9fff", "indefinite"), ("bfff", "indefinite"),
        ("5f4101ff", "indefinite"),
        ("7f6161ff", "indefinite"), ("ff", "simple"), ("1c", "reserved"), ("f7", "simple"),
        ("e0", "simple"),
        ("f820", "simple"), ("61ff", "UTF-8"), ("a2616101616102", "twice"), ("a201000100", "twice"),
        ("a1f500", "key"), ("a14000", "key"), ("a18000", "key"), ("a1f93c0000", "key"), ("c101", "tag"),
        ("d28401020304", "tag"),
        ("9b7fffffffffffffff", "cut off"), ("bb7fffffffffffffff", "cut off"),
        ("5b7fffffffffffffff", "cut off"),
    ],
)  # fmt: skip
def test_hostile_encodings_are_refused(hex_, what):
    assert what in refused(bytes.fromhex(hex_))


def test_depth_and_number_are_limited():
    assert cbor.decode(b"\x81" * 16 + b"\x00") is not None
    assert "deeper" in refused(b"\x81" * 17 + b"\x00")
    assert "deeper" in refused(b"\x81" * 100_000)
    assert "more values" in refused(b"\x98\x64" + b"\x00" * 100, max_items=100)
    assert cbor.decode(b"\x98\x64" + b"\x00" * 100, max_items=101) == [0] * 100


def test_a_tag_is_read_only_where_it_is_expected():
    assert cbor.decode(b"\xd2\x01", tags={18}) == cbor.Tagged(18, 1)
    refused(b"\xd3\x01", tags={18})


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j, {b"key": 1}, {None: 1}, {True: 1}, {1.5: 1}])
def test_what_has_no_place_in_a_message_cannot_be_written(value):
    with pytest.raises(TypeError):
        cbor.encode(value)


def test_integers_beyond_64_bits_cannot_be_written():
    with pytest.raises(ValueError, match="64 bits"):
        cbor.encode(2**64)


MESSAGES: list[msgspec.Struct] = [
    messages.Offer(
        b"\x04" * 16, 3, "shoulder", "f" * 64, 2, b"\x01" * 32, "feedback|quantise(1)", 77,
        messages.Steps(5, 16, 0.05), 32,
        (messages.Artefact(2, "snapshot", b"\x02" * 32, 40000, 1),
        messages.Artefact(2, "update", b"\x03" * 32, 5000, 1)),
    ),
    messages.Parameters(2, "update", "float32", 5, b"\x00\x01", b"\x02" * 32),
    messages.Delta(
        b"\x04" * 16, 3, 2, "float32", b"abc", 100,
        messages.Metrics(10, 0.5, 0.8), messages.Metrics(10, 0.25),
    ),
    messages.Decline(3, "on battery"),
    messages.Receipt(3, b"\x01" * 32),
    messages.Refusal(b"\x01" * 32, reasons.STALE_ROUND),
    messages.Report("0.1", "shoulder", "shoulder/1.marram", "1", b"\x01" * 32, "committed"),
    messages.Fetch(1, "metadata/timestamp.json", 4096, 0, b"\x01", 65536),
    messages.Block(1, 5000, 4096, b"abc"),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_roundtrip(message):
    data = cbor.pack(message)
    assert cbor.unpack(data, type(message)) == message
    assert isinstance(cbor2.loads(data), dict)


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1}, {"round": -1}, {"round": 2**60}, {"round": "3"}, {"round": 3.5}, {"delta": b"short"},
        {"delta": "text" * 8}, {"round": None}, {"round": True},
    ],
)  # fmt: skip
def test_messages_of_the_wrong_shape_are_refused(change):
    with pytest.raises(WireError) as caught:
        cbor.unpack(cbor.encode({"round": 3, "delta": b"\x01" * 32} | change), messages.Receipt)
    assert caught.value.reason == reasons.MALFORMED


@pytest.mark.parametrize("value", [None, 1, [1, b"\x01" * 32], {}, {1: 2}, {"round": 3}, "round"])
def test_values_that_are_no_message_are_refused(value):
    with pytest.raises(WireError):
        cbor.unpack(cbor.encode(value), messages.Receipt)


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_random_bytes_are_only_ever_refused(data):
    try:
        value = cbor.decode(data)
    except WireError as error:
        assert error.reason == reasons.MALFORMED
    else:
        cbor.encode(value)


@settings(max_examples=300)
@given(st.sampled_from(MESSAGES), st.data())
def test_mutated_messages_are_only_ever_refused(message, data):
    packed = bytearray(cbor.pack(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(packed) - 1))
        packed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not packed:
            break
    try:
        cbor.unpack(bytes(packed), type(message))
    except WireError as error:
        assert error.reason == reasons.MALFORMED
