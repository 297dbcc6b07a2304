"""Which layer loses most in int8."""

import numpy as np
import pytest
from marram_cloud.compression.cost import measure_cost, work
from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.folding import fold
from marram_cloud.compression.operators import layers
from marram_cloud.compression.ranges import measure
from marram_cloud.compression.sensitivity import sensitivities

from tests.support.networks import ATTENTION, RESIDUAL, drawn, program


def test_the_layer_with_the_worst_weights_is_found():
    predict, (parameters, windows) = program(RESIDUAL), drawn(RESIDUAL)
    # A channel that never speaks, with weights beside which all others are less than a step of int8.
    parameters[72] = -100.0
    parameters[80:272].reshape(8, 8, 3)[:, 0] = 300.0
    found = sensitivities(predict, parameters, measure(predict, parameters, windows), windows)
    assert [one.layer.shape for one in found] == [(8, 3, 3), (8, 8, 3), (4, 8)]
    assert max(found, key=lambda one: one.error).layer.weight == "b_weight"


def test_every_multiplication_is_counted():
    predict, (parameters, _) = program(RESIDUAL), drawn(RESIDUAL)
    assert work(predict, parameters).macs == 8 * 32 * 9 + 8 * 32 * 24 + 32
    predict, (parameters, _) = program(ATTENTION), drawn(ATTENTION)
    assert work(predict, parameters).macs == 16 * 24 * 4 + 2 * 16 * 16 * 8 + 8 * 3


def test_layers_are_named_by_their_nodes_and_know_their_weights():
    predict, (parameters, _) = program(RESIDUAL), drawn(RESIDUAL)
    found = layers(fold(predict, parameters))
    assert [(one.operator, one.weight, one.parameters) for one in found] == [
        ("Conv", "a_weight", 72), ("Conv", "b_weight", 192), ("Gemm", "c_weight", 32),
    ]  # fmt: skip
    assert len({one.name for one in found}) == 3


def test_time_and_memory_are_those_of_a_process_of_its_own():
    predict, (parameters, windows) = program(RESIDUAL), drawn(RESIDUAL)
    cost = measure_cost(predict, {"parameters": parameters, "x": windows[:1]}, runs=30)
    assert 0 < cost.p50 <= cost.p99
    assert 0 < cost.memory < cost.process


def test_a_program_that_does_not_run_is_an_error_with_its_reason():
    with pytest.raises(CompressionError, match=r"could not be measured: .*onnxruntime cannot load"):
        measure_cost(b"no program", {"x": np.zeros((1, 3, 32), np.float32)})
