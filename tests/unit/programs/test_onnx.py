"""ONNX programs in onnxruntime: what they take and refuse, and that they talk to nobody."""

import os
import subprocess
import sys

import numpy as np
import pytest
from marram.errors import ProgramError
from marram.programs.program import ProgramOptions, Tensor, load
from onnx import TensorProto, helper

from tests.support import models
from tests.support.configs import SHOULDER_BUNDLE


def test_a_program_tells_its_tensors_and_runs_any_batch(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(models.classifier())
    for program in (load(path, "onnx"), load(models.classifier(), "onnx", ProgramOptions(threads=2))):
        assert program.inputs == (Tensor("x", "float32", ("batch", 2, 4)),)
        assert program.outputs == (Tensor("scores", "float32", ("batch", 2)),)
        for batch in (1, 7):
            scores = program(x=np.ones((batch, 2, 4), np.float32))["scores"]
            np.testing.assert_allclose(scores, [[0.1192, 0.8808]] * batch, atol=1e-4)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"x": np.zeros((1, 3, 4), np.float32)},
        {"x": np.zeros((1, 2, 4), np.float64)},
        {"x": np.zeros((1, 2, 4), np.float32), "y": np.zeros(1, np.float32)},
    ],
    ids=["nothing", "a channel too many", "float64", "one too many"],
)
def test_arrays_that_do_not_fit_are_refused(arrays):
    with pytest.raises(ProgramError, match="onnxruntime refused to run the program"):
        load(models.classifier(), "onnx")(**arrays)


def test_providers_that_the_machine_lacks_are_passed_over():
    options = ProgramOptions(providers=("CUDAExecutionProvider", "NoSuchProvider"))
    assert load(models.classifier(), "onnx", options)(x=np.zeros((1, 2, 4), np.float32))


def test_a_tensor_type_that_marram_does_not_use_is_refused():
    node = helper.make_node("Identity", ["x"], ["text"])
    data = models.model(
        [node],
        [models.output("text", ("batch",), TensorProto.STRING)],
        shape=("batch",),
        kind=TensorProto.STRING,
    )
    with pytest.raises(
        ProgramError, match=r"tensor 'x' has type tensor\(string\), which Marram does not use"
    ):
        load(data, "onnx")


@pytest.mark.parametrize("location", ["/etc/hostname", "../../secret", "secret"])
def test_weights_outside_of_the_file_are_refused(tmp_path, monkeypatch, location):
    """ONNX may name another file for its weights; out of a bundle it must not read the device's files."""
    (tmp_path / "secret").write_bytes(np.zeros(2, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "m",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2,))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2,))],
    )
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    weight.external_data.add(key="length", value="8")
    graph.initializer.append(weight)
    data = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    with pytest.raises(ProgramError, match=r"onnxruntime cannot load .* weights are in another file: write"):
        load(data, "onnx")


INFERENCE = """
import os, sys
from pathlib import Path
import numpy as np

called = []
sys.addaudithook(lambda event, args: called.append(event) if event.startswith("socket.") else None)
from marram.bundle.file import read
from marram.inference.model import int8_model
from marram.programs.program import ProgramOptions
program = read(Path(sys.argv[1])).program("infer", ProgramOptions())
for _ in range(20):
    program(x=np.zeros((1, 6, 100), np.float32))

def target(descriptor):
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""

sockets = [target(name) for name in os.listdir("/proc/self/fd") if target(name).startswith("socket:")]
modules = Path("/proc/self/maps").read_text()
print(called, sockets, "onnxruntime" in modules)
"""


def test_inference_leaves_no_file_and_opens_no_socket(tmp_path):
    """onnxruntime's telemetry writes a device id below the cache folder and sends it, unless told not to."""
    folders = {
        name: tmp_path / name
        for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "TMPDIR")
    }
    for folder in folders.values():
        folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-B", "-c", INFERENCE, str(SHOULDER_BUNDLE)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment, **{name: str(folder) for name, folder in folders.items()}},
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "[] [] True"
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
