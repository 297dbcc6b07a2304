"""Windows a second through the daemon's pipeline, against a bare loop of onnxruntime over the same ones."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from marram.bundle.manifest import Manifest
from marram.inference.model import Model, int8_model
from marram.inference.pipeline import Pipeline
from marram.inference.queue import WindowQueue
from marram.outputs.jsonl import JsonlOutput
from marram.programs.program import ProgramOptions, load
from marram.sensors.csv import CsvConfig
from marram.sensors.csv import open as open_csv
from marram.sensors.sensor import SensorContext
from marram.stream.blocks import Samples
from marram.stream.config import StreamConfig
from marram.stream.stream import Stream
from onnx import TensorProto, helper, numpy_helper

from benchmarks.report import Result, at_least
from examples.shoulder import people

_RUNS = 5
_HIDDEN = 2700  # so that one window takes about a millisecond


def measure() -> Result:
    bundle = people.bundle()
    infer = bundle.members[bundle.manifest.programs["infer"].file]
    small = _ratio(int8_model(bundle, ProgramOptions()), infer, repeat=40)
    slow = _slow_program(bundle.manifest)
    program = load(slow, "onnx")
    large = _ratio(Model(bundle.manifest, "slow", lambda x: program(x=x)), slow, repeat=1)
    return Result(
        "Windows through the pipeline",
        "python -m benchmarks pipeline",
        "Samples in (the blocks of a recording played as fast as it goes), jsonl on disk out: stream, queue, "
        "model, output, as the daemon runs them, in micro-batches of up to 64. The bare loop calls "
        "`session.run` window by window on windows that are cut already, one thread each. "
        f"Medians of {_RUNS} runs in turn.",
        (
            at_least(f"the demo's model ({small[1]:.0f} us a call): pipeline / bare loop", small[0], 0.5),
            at_least(f"a model of {large[1] / 1000:.1f} ms a call: pipeline / bare loop", large[0], 0.9),
        ),
    )


def _ratio(model: Model, program: bytes, repeat: int) -> tuple[float, float]:
    """(pipeline's windows a second / the bare loop's, microseconds of a bare call)."""
    blocks = _samples()
    windows = people.windows(1).values
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])

    def bare() -> None:
        for _ in range(repeat):
            for index in range(len(windows)):
                session.run(None, {"x": windows[index : index + 1]})

    ours, theirs = [], []
    for _ in range(_RUNS):
        theirs.append(_seconds(bare))
        ours.append(_seconds(lambda: _pipeline(model, blocks, repeat)))
    call = statistics.median(theirs) / (repeat * len(windows)) * 1e6
    return statistics.median(t / o for t, o in zip(theirs, ours, strict=True)), call


def _pipeline(model: Model, blocks: list[Samples], repeat: int) -> None:
    manifest = model.manifest
    names = manifest.channel_names
    stream = Stream(
        names, manifest.rate, manifest.length, manifest.stride, manifest.labels, {"watch": names},
        StreamConfig(), replays=["watch"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        output = JsonlOutput(Path(folder) / "predictions.jsonl", 1 << 30, 0)
        pipeline = Pipeline(stream, manifest.labels, WindowQueue(4096), model, {"jsonl": output}, None, 64)
        thread = threading.Thread(target=pipeline.run)
        thread.start()
        span = blocks[-1].time[-1] + 20.0 - blocks[0].time[0]
        for turn in range(repeat):
            for block in blocks:
                moved = Samples(block.time + turn * span, block.values, block.labels)
                pipeline.feed("watch", moved, False, threading.Event())
        pipeline.ended("watch")
        pipeline.queue.close()
        thread.join()
        output.close()
        expected = repeat * len(people.windows(1))
        assert pipeline.predicted == expected, f"{pipeline.predicted} of {expected} windows were predicted"


def _samples() -> list[Samples]:
    """Person 1 in the blocks that the csv sensor gives when a recording is played as fast as it goes."""
    config = CsvConfig(name="watch", path=people.recording(1), label="exercise", speed="max", rebase=False)
    return list(open_csv(config, SensorContext()).read(threading.Event()))


def _slow_program(manifest: Manifest) -> bytes:
    """Two dense layers in fp32: x (batch, channels, length) -> scores (batch, labels)."""
    random = np.random.default_rng(0)
    size = len(manifest.channels) * manifest.length

    def weight(name: str, rows: int, columns: int) -> onnx.TensorProto:
        values = random.standard_normal((rows, columns)).astype(np.float32) * np.float32(rows**-0.5)
        return numpy_helper.from_array(values, name)

    nodes = [helper.make_node("Flatten", ["x"], ["flat"])]
    last, width = "flat", size
    weights = []
    for layer in range(3):
        weights.append(weight(f"w{layer}", width, _HIDDEN))
        nodes += [
            helper.make_node("MatMul", [last, f"w{layer}"], [f"h{layer}"]),
            helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"]),
        ]
        last, width = f"r{layer}", _HIDDEN
    weights.append(weight("out", width, len(manifest.labels)))
    nodes += [
        helper.make_node("MatMul", [last, "out"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    x = helper.make_tensor_value_info(
        "x", TensorProto.FLOAT, ["batch", len(manifest.channels), manifest.length]
    )
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", len(manifest.labels)])
    graph = helper.make_graph(nodes, "slow", [x], [scores], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
