"""Does the model load and run? Tried in a child, as a release is, so that a bad file harms nothing."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from marram.doctor.finding import Finding, error, ok
from marram.doctor.machine import Machine
from marram.errors import MarramError

if TYPE_CHECKING:
    import msgspec

    from marram.children.child import ChildError
    from marram.config.schema import Agent

_WINDOWS = 64


def check(machine: Machine) -> Iterator[Finding]:
    config = machine.config
    if config is None:
        return
    path = config.model.bundle or config.model.file
    assert path is not None, "the schema sees to it"
    try:
        yield ok(str(path), _tried(config, path))
    except MarramError as problem:
        yield error(
            str(path),
            str(problem),
            "copy the file again, or name another; the agent runs a release that it has, if there is one",
        )


def _tried(config: Agent, path: Path) -> str:
    """What it took. Raises MarramError with the reason why it does not run."""
    from marram.bundle.bare import open_model
    from marram.children.child import Child, ChildError
    from marram.releases.talk import Candidate, PreflightJob, Tried

    bundle = open_model(path, config.model.description)
    manifest = bundle.manifest
    kind = "marram" if config.model.bundle is not None else manifest.programs["infer"].runtime
    candidate = Candidate(
        name=manifest.name,
        version=manifest.version,
        file=str(path),
        kind="onnx" if kind == "onnx" else "tflite" if kind == "tflite" else "marram",
        configured=str(path),
        description=config.model.description,
        threads=config.model.threads,
        providers=config.model.providers,
        memory=config.releases.memory,
        nice=0,
    )
    said: queue.SimpleQueue[msgspec.Struct | ChildError] = queue.SimpleQueue()
    began = time.monotonic()
    child = Child("marram.releases.preflight", Tried, said.put, config.releases.preflight_timeout)
    child.send(PreflightJob(candidate, candidate, "", _WINDOWS))
    child.close()
    tried: Tried | None = None
    while not isinstance(frame := said.get(), ChildError):
        assert isinstance(frame, Tried)
        tried = frame
    if tried is None:
        raise frame
    measured = tried.running
    if measured.errors:
        raise MarramError(
            f"{manifest.name} fails on {measured.errors} of {_WINDOWS} windows: {measured.problem}"
        )
    return (
        f"{manifest.name} {manifest.version} loads and runs: {measured.cpu_us:.0f} us of processor a window, "
        f"{measured.memory / 2**20:.0f} MiB, tried in {time.monotonic() - began:.1f} s"
    )
