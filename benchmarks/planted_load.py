"""How soon the host example flags a load that is planted on this machine, and whether it names the cause."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import Figure, Result, at_most

_CONFIG = Path(__file__).parent.parent / "firmware_configs" / "this-machine.yaml"
_LEARNING, _CALM, _LOAD = 300.0, 20.0, 60.0
_BUSY = [sys.executable, "-c", "while True: pass"]
_WRITER = "while :; do dd if=/dev/zero of={} bs=1M count=256 oflag=dsync 2>/dev/null; done"


def measure() -> Result:
    build = _CONFIG.parent.parent / "build"  # on a disk: /tmp may be none
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as name:
        folder = Path(name)
        command = [sys.executable, "-m", "marram.cli", "run", "-c", str(_config(folder))]
        agent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            said = folder / "predictions.jsonl"
            _wait_for(said)
            time.sleep(_CALM)
            calm = [one["label"] for one in _predictions(said)].count("anomaly")
            busy = _flagged(said, [_BUSY] * (os.cpu_count() or 1))
            time.sleep(_CALM)
            disk = _flagged(said, [["sh", "-c", f"{_WRITER.format(folder / 'load')}"]])
        finally:
            agent.terminate()
            agent.wait()
    return Result(
        "A planted load",
        "python -m benchmarks planted_load",
        "A real `marram run` with firmware_configs/this-machine.yaml that begins with nothing: 90 s of the "
        f"machine at rest, one training, {_CALM:.0f} s of rest, then a busy loop on every core, rest, and a "
        "process that writes to the disk without pause. Seconds from the load's start to the end of the "
        "first window that is called an anomaly.",
        (
            Figure("windows at rest that were called an anomaly", str(calm)),
            at_most("busy loops: flagged after", busy[0], 60, " s"),
            Figure("busy loops: causes", busy[1]),
            at_most("disk writer: flagged after", disk[0], 60, " s"),
            Figure("disk writer: causes", disk[1]),
        ),
    )


def _config(folder: Path) -> Path:
    """The committed configuration with paths of its own."""
    settings: dict[str, Any] = yaml.safe_load(_CONFIG.read_text())
    settings["device"]["state"] = str(folder / "state")
    settings["model"]["bundle"] = str((_CONFIG.parent / settings["model"]["bundle"]).resolve())
    settings["outputs"] = [{"type": "jsonl", "path": str(folder / "predictions.jsonl")}]
    path = folder / "marram.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _wait_for(said: Path) -> None:
    until = time.monotonic() + _LEARNING
    while not _predictions(said):
        if time.monotonic() > until:
            raise TimeoutError(f"nothing was predicted within {_LEARNING:.0f} s")
        time.sleep(1)


def _flagged(said: Path, commands: list[list[str]]) -> tuple[float, str]:
    """(seconds until the first anomaly, its causes) with the load running; infinity if there is none."""
    began = time.time()
    load = [subprocess.Popen(command, start_new_session=True) for command in commands]
    try:
        while time.time() < began + _LOAD:
            time.sleep(0.5)
            for one in _predictions(said):
                if one["end"] > began and one["label"] == "anomaly":
                    causes = ", ".join(f"{cause['channel']} {cause['share']:.0%}" for cause in one["causes"])
                    return one["end"] - began, causes
    finally:
        for process in load:
            os.killpg(process.pid, 9)
            process.wait()
    return float("inf"), "none"


def _predictions(said: Path) -> list[dict[str, Any]]:
    if not said.exists():
        return []
    return [json.loads(line) for line in said.read_text().splitlines() if line.endswith("}")]
