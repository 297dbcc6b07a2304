"""The codec chain: every stage alone and together, exact lengths, exact residuals, hostile payloads."""

import hashlib
import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.errors import WireError
from marram.wire import reasons
from marram.wire.codec import Chain, device_seed, seed
from marram.wire.codec.quantise import LEVELS

ENDINGS = ["float32", "float16", "quantise(1)", "quantise(2)", "quantise(4)", "quantise(8)", "quantise(4,8)"]
MIDDLES = [
    "",
    "rotate(2)|",
    "rotate(64)|",
    "topk(0.1)|",
    "topk(0.9)|",
    "randk(0.25)|",
    "rotate(256)|topk(0.02)|",
]
SPECS = [middle + ending for middle, ending in itertools.product(MIDDLES, ENDINGS)]
WITH_FEEDBACK = ["feedback|" + spec for spec in SPECS] + ["clip(1)|feedback|rotate(256)|quantise(1)"]


def vector(n: int, number: int = 0, scale: float = 1e-3) -> np.ndarray:
    return (np.random.default_rng(number).normal(size=n) * scale).astype(np.float32)


@pytest.mark.parametrize("spec", SPECS + WITH_FEEDBACK)
def test_length_is_known_and_decoding_is_the_encoders_own_reconstruction(spec):
    chain = Chain.parse(spec)
    for n in (1, 2, 7, 8, 255, 256, 257, 1000):
        x = vector(n, n)
        encoded = chain.encode(x, seed=n)
        decoded = chain.decode(encoded.payload, n, seed=n)
        assert len(encoded.payload) == chain.size(n)
        assert decoded.dtype == np.float32
        assert decoded.shape == (n,)
        if chain.feedback:
            assert encoded.residual is not None
            np.testing.assert_array_equal(encoded.residual, x - decoded)
        else:
            assert encoded.residual is None


@given(st.sampled_from(WITH_FEEDBACK), st.integers(1, 300), st.integers(0, 2**64 - 1))
@settings(max_examples=150, deadline=None)
def test_feedback_loses_nothing_over_time(spec, n, first_seed):
    chain = Chain.parse(spec.replace("clip(1)|", ""))
    residual = None
    inputs = np.zeros(n)
    outputs = np.zeros(n)
    largest = 0.0
    for turn in range(12):
        x = vector(n, turn)
        here = (first_seed + turn) % 2**64
        encoded = chain.encode(x, here, residual)
        residual = encoded.residual
        inputs += x
        outputs += chain.decode(encoded.payload, n, here)
        largest = max(largest, float(np.abs(residual).max()))
    np.testing.assert_allclose(outputs + residual, inputs, atol=24 * 6e-8 * (largest + 0.01))


@pytest.mark.parametrize("spec", ["feedback|rotate(256)|quantise(1)", "feedback|rotate(256)|quantise(4)"])
def test_the_residual_stays_bounded(spec):
    chain = Chain.parse(spec)
    residual = None
    for turn in range(60):
        residual = chain.encode(vector(2000, turn), turn, residual).residual
    assert np.linalg.norm(residual) < 2 * np.linalg.norm(vector(2000))


@pytest.mark.parametrize(("bits", "loss"), [(1, 1 - 2 / math.pi), (2, 0.1175), (4, 0.009497), (8, 3e-4)])
def test_rotated_quantising_has_the_error_of_a_gaussian(bits, loss):
    x = np.zeros(1 << 14, np.float32)
    x[::7] = np.arange(len(x[::7]))
    chain = Chain.parse(f"rotate(4096)|quantise({bits},4096)")
    decoded = chain.decode(chain.encode(x, 3).payload, len(x), 3)
    assert np.sum((decoded - x) ** 2) / np.sum(x**2) < 1.03 * loss


@pytest.mark.parametrize("bits", [2, 4])
def test_levels_are_those_of_lloyd_and_max(bits):
    """Each level is the mean of a Gaussian between the midpoints to its neighbours."""
    levels = LEVELS[bits].astype(float)
    edges = [-math.inf, *((levels[1:] + levels[:-1]) / 2), math.inf]
    for level, (low, high) in zip(levels, itertools.pairwise(edges), strict=True):
        density = [math.exp(-edge * edge / 2) / math.sqrt(2 * math.pi) for edge in (low, high)]
        mass = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
        assert level == pytest.approx((density[0] - density[1]) / mass, abs=2e-5)


def test_rotation_is_the_hadamard_matrix_behind_signs():
    block, n = 8, 13
    signs = [1 - 2 * (seed.stream(5, "rotate", 2)[i // 8] >> (7 - i % 8) & 1) for i in range(16)]
    hadamard = np.array(
        [[(-1) ** (i & j).bit_count() for j in range(block)] for i in range(block)]
    ) / math.sqrt(block)
    x = vector(n, scale=1.0)
    padded = np.append(x, np.zeros(3)) * signs
    expected = (padded.reshape(2, block) @ hadamard).reshape(-1)
    stage = Chain.parse("rotate(8)|float32").stages[0]
    rotated, _ = stage.encode(x, 5)
    np.testing.assert_allclose(rotated, expected, atol=1e-6)
    np.testing.assert_allclose(stage.decode(rotated, b"", n, 5), x, atol=1e-6)


def test_a_rotation_leaves_what_it_is_given_as_it_was():
    stage = Chain.parse("rotate(8)|float32").stages[0]
    values = vector(8)
    before = values.copy()
    stage.decode(values, b"", 8, 5)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("n", [1, 5, 8, 100, 1000])
@pytest.mark.parametrize("fraction", ["0.01", "0.1", "0.5", "1"])
def test_topk_keeps_the_largest(n, fraction):
    x = vector(n)
    chain = Chain.parse(f"topk({fraction})|float32")
    decoded = chain.decode(chain.encode(x, 0).payload, n, 0)
    k = max(1, math.floor(float(fraction) * n + 0.5))
    order = np.argsort(-np.abs(x))
    np.testing.assert_array_equal(decoded[order[:k]], x[order[:k]])
    assert not decoded[order[k:]].any()


def test_randk_takes_other_places_with_another_seed():
    x = np.ones(1000, np.float32)
    chain = Chain.parse("randk(0.1)|float32")
    first, second = (np.flatnonzero(chain.decode(chain.encode(x, s).payload, 1000, s)) for s in (1, 2))
    assert len(first) == len(second) == 100
    assert len(np.intersect1d(first, second)) < 30


def test_clip():
    chain = Chain.parse("clip(0.5)|float32")
    x = vector(1000, scale=1.0)
    clipped = chain.decode(chain.encode(x, 0).payload, 1000, 0)
    assert np.linalg.norm(clipped) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_allclose(clipped / 0.5, x / np.linalg.norm(x), rtol=1e-4)
    small = x * np.float32(1e-3)
    np.testing.assert_array_equal(chain.decode(chain.encode(small, 0).payload, 1000, 0), small)


@pytest.mark.parametrize("spec", SPECS)
def test_zeros_and_extremes(spec):
    chain = Chain.parse(spec)
    zeros = np.zeros(300, np.float32)
    np.testing.assert_array_equal(chain.decode(chain.encode(zeros, 0).payload, 300, 0), zeros)
    tiny = np.full(300, 1e-42, np.float32)
    assert np.isfinite(chain.decode(chain.encode(tiny, 0).payload, 300, 0)).all()
    large = vector(300, scale=1e20)
    decoded = chain.decode(chain.encode(large, 0).payload, 300, 0)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_vectors_that_are_not_finite_are_not_encoded(value):
    x = vector(10)
    x[3] = value
    with pytest.raises(WireError) as caught:
        Chain.parse("float32").encode(x, 0)
    assert caught.value.reason == reasons.BAD_VALUES


def test_a_residual_of_another_chain_is_an_error_of_the_caller():
    with pytest.raises(ValueError, match="residual"):
        Chain.parse("float32").encode(vector(10), 0, vector(10))
    with pytest.raises(ValueError, match="residual"):
        Chain.parse("feedback|quantise(1)").encode(vector(10), 0, vector(9))


@pytest.mark.parametrize(
    "spec",
    [
        "", "|", "float32|", "|float32", "clip(1)", "feedback", "float64", "Float32", "float32()",
        "float32(1)",
        "float32|float32", "quantise(1)|float32", "quantise", "quantise()", "quantise(3)",
        "quantise(01)", "quantise(1,)",
        "quantise(1,7)", "quantise(1,65537)", "quantise(1,8,8)", "quantise(1,uniform)",
        "rotate(3)|float32",
        "rotate(0)|float32", "rotate(1)|float32", "rotate(131072)|float32", "rotate(256.0)|float32",
        "rotate|float32",
        "rotate(-256)|float32", "clip(0)|float32", "clip(1e3)|float32", "clip(nan)|float32",
        "clip(.5)|float32", "clip(1.)|float32",
        "clip(1000001)|float32", "clip(9999999999999)|float32", "topk(0)|float32", "topk(1.1)|float32",
        "topk(0.0)|float32",
        "topk(0.1)|randk(0.1)|float32", "feedback|clip(1)|float32", "rotate(8)|feedback|float32",
        "clip(1)|clip(1)|float32",
        "feedback|feedback|float32", " float32", "float32 ", "clip( 1)|float32", "clip(1)\n|float32",
        "float32\n",
        "noise(1)|float32", "clip(\u0661)|float32", "topk(0.1)|rotate(8)|float32",
        "clip(1)|" * 30 + "float32", "a" * 100_000,
    ],
)  # fmt: skip
def test_chains_of_nonsense_are_refused(spec):
    with pytest.raises(WireError) as caught:
        Chain.parse(spec)
    assert caught.value.reason == reasons.WRONG_CHAIN
    assert len(str(caught.value)) <= 500  # Refusal.detail


@given(st.text(max_size=60) | st.text("cliprotafekqunsd123248().,|", max_size=40))
def test_random_text_is_only_ever_refused(spec):
    try:
        chain = Chain.parse(spec)
    except WireError as error:
        assert error.reason == reasons.WRONG_CHAIN
    else:
        assert chain.spec == spec


@given(st.sampled_from(SPECS), st.integers(1, 600), st.data())
@settings(max_examples=300, deadline=None)
def test_hostile_payloads_decode_to_finite_values_or_are_refused(spec, n, data):
    chain = Chain.parse(spec)
    size = chain.size(n)
    payload = data.draw(
        st.binary(min_size=size, max_size=size) | st.just(b"\xff" * size) | st.just(b"\x7f" * size)
    )
    try:
        decoded = chain.decode(payload, n, 1)
    except WireError as error:
        assert error.reason == reasons.BAD_VALUES
    else:
        assert decoded.shape == (n,)
        assert np.isfinite(decoded).all()


@pytest.mark.parametrize("spec", SPECS)
def test_wrong_lengths_are_refused(spec):
    chain = Chain.parse(spec)
    payload = chain.encode(vector(100), 0).payload
    for wrong in (b"", payload[:-1], payload + b"\x00", payload * 2):
        with pytest.raises(WireError) as caught:
            chain.decode(wrong, 100, 0)
        assert caught.value.reason == reasons.BAD_VALUES
    with pytest.raises(WireError):
        chain.decode(b"", 0, 0)


@pytest.mark.parametrize(
    ("spec", "n", "payload"),
    [
        ("float32", 1, "0000c07f"), ("float32", 1, "000080ff"), ("float16", 1, "007c"),
        ("quantise(8)", 1, "3f8000"),
        ("quantise(1)", 1, "7f8000"), ("quantise(1)", 1, "7fc000"), ("quantise(1)", 1, "bf8000"),
        ("quantise(1)", 1, "3f8001"),
        ("quantise(4)", 1, "7f7f00"), ("rotate(4)|float32", 4, "ffff7f7f" * 4),
        ("topk(0.5)|float32", 2, "20" "0000803f"),
        ("topk(0.5)|float32", 2, "c0" "0000803f"), ("topk(0.1)|float32", 20, "ff0000" + "0000803f" * 2),
        ("topk(0.1)|float32", 20, "f800" + "0000803f" * 2),
        ("topk(0.1)|float32", 20, "0840" + "0000803f" * 2),
        ("topk(0.1)|float32", 20, "1040" + "0000803f" * 2),
        ("topk(0.1)|float32", 20, "0841" + "0000803f" * 2),
    ],
)  # fmt: skip
def test_hostile_values_are_refused(spec, n, payload):
    with pytest.raises(WireError) as caught:
        Chain.parse(spec).decode(bytes.fromhex(payload), n, 0)
    assert caught.value.reason == reasons.BAD_VALUES


@pytest.mark.parametrize("spec", SPECS)
def test_decoding_needs_memory_in_proportion_to_the_vector(spec):
    n = 200_000
    chain = Chain.parse(spec)
    payload = b"\x3f" * chain.size(n)
    tracemalloc.start()
    try:
        chain.decode(payload, n, 0)
    except WireError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 40 * n


@pytest.mark.parametrize(
    ("spec", "sha256"),
    [
        ("rotate(64)|quantise(1,64)", "2c5c12cbb082f5096985d7e174db5cdbd4a7b3a50bc98123a4664e152d973787"),
        ("rotate(512)|quantise(2,64)", "3387279c27479ace6555686dc9c179599646fd7fe4e7a1adb0de40c31490fe33"),
        ("rotate(32)|quantise(4,64)", "f075aba39c318dd6e767b5acb9cd2798ca894e2826e5213ab8c731a6565669f7"),
        ("rotate(1024)|quantise(8,64)", "69fce3a3cb259cea7a0a32ffec2909874a2a4a11b1c77b2d4801ce64ca9ecbbf"),
    ],
)
def test_decoding_gives_the_same_bits_everywhere(spec, sha256):
    """Fixed bytes, 16 scales and 1024 codes, decode to bits that no machine and no numpy may change."""
    chain = Chain.parse(spec)
    scales = b"".join((0x3C00 + 7 * block).to_bytes(2, "big") for block in range(16))
    codes = seed.stream(1, "test", chain.size(1000) - len(scales)).replace(b"\x00", b"\x01")
    decoded = chain.decode(scales + codes, 1000, 99)
    assert hashlib.sha256(decoded.astype("<f4").tobytes()).hexdigest() == sha256


def test_device_seed():
    expected = int.from_bytes(hashlib.sha256((9).to_bytes(8, "big") + b"a1").digest()[:8], "big") >> 11
    assert device_seed(9, "a1") == expected < 2**53
