"""Engines and strategies: the sums themselves, against a few plain lines of numpy."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from marram_cloud.engines.engine import DeltaReference
from marram_cloud.engines.local import LocalEngine
from marram_cloud.strategies.fedavg import FedAvg

ENGINES = [LocalEngine()]
finite = st.floats(-1e6, 1e6, width=32)


@pytest.fixture(params=ENGINES, ids=lambda engine: type(engine).__name__)
def engine(request):
    return request.param


def references(vectors, weights):
    for number, (vector, weight) in enumerate(zip(vectors, weights, strict=True)):
        yield DeltaReference(f"device-{number}", weight, lambda vector=vector: vector)


cases = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        arrays.arrays(np.float32, (n, 7), elements=finite),
        st.lists(st.integers(1, 10**9), min_size=n, max_size=n),
    )
)


@given(cases)
def test_the_mean_is_the_weighted_mean_in_float64(case):
    vectors, weights = case
    for engine in ENGINES:
        result = engine.weighted_mean(references(vectors, weights), 7)
        exact = np.average(vectors.astype(np.float64), axis=0, weights=weights)
        np.testing.assert_allclose(result.mean, exact, rtol=1e-12, atol=1e-6)
        assert result.weight == sum(weights)
        assert result.count == len(weights)


def test_the_mean_of_nothing_is_zero(engine):
    result = engine.weighted_mean(iter(()), 3)
    assert result.mean.tolist() == [0, 0, 0]
    assert (result.weight, result.count) == (0, 0)


def test_memory_does_not_grow_with_the_number_of_devices(engine):
    """Each vector is 4 MB and is made when it is asked for: two hundred of them at once would be 800 MB."""
    size = 1_000_000

    def many(count):
        for number in range(count):
            yield DeltaReference(str(number), 1, lambda: np.ones(size, np.float32))

    peaks = []
    for count in (3, 200):
        tracemalloc.start()
        result = engine.weighted_mean(many(count), size)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert result.count == count
        assert result.mean.max() == 1.0
    assert peaks[1] < peaks[0] * 1.2


def test_a_small_delta_beside_large_ones_is_not_lost_to_rounding(engine):
    vectors = [np.full(1, 1e6, np.float32), np.full(1, 1e-4, np.float32), np.full(1, -1e6, np.float32)]
    result = engine.weighted_mean(references(vectors, [1, 1, 1]), 1)
    np.testing.assert_allclose(result.mean, [1e-4 / 3], rtol=1e-4)


def test_a_reference_that_cannot_be_read_is_an_error_and_not_a_smaller_sum(engine):
    def broken():
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        engine.weighted_mean([DeltaReference("a", 1, broken)], 3)


def test_federated_averaging_adds_the_mean(engine):
    parameters, state = FedAvg().step(np.ones(3), np.array([1.0, 2.0, 3.0]), None)
    assert parameters.tolist() == [2, 3, 4]
    assert state is None


def test_the_servers_rate_scales_the_step():
    assert FedAvg(rate=0.5).step(np.zeros(1), np.ones(1), None)[0].tolist() == [0.5]


def test_server_momentum_is_the_recursion_of_the_paper():
    rule = FedAvg(rate=0.5, momentum=0.9)
    parameters, state = np.zeros(2), None
    velocity, expected = np.zeros(2), np.zeros(2)
    for number in range(5):
        mean = np.array([1.0, -number])
        parameters, state = rule.step(parameters, mean, state)
        velocity = 0.9 * velocity + mean
        expected = expected + 0.5 * velocity
        np.testing.assert_allclose(parameters, expected)
        np.testing.assert_allclose(state, velocity)
