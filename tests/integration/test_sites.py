"""Each worked site with its simulator in place of its sensor: it learns its normal, and finds a fault.

The sensor, the paths and what only time can give are replaced by a drop-in, as an operator would; all else is
the site's own file, run by a real ``marram run``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from marram.control import ControlError, ask

from examples.sites.simulate import SITES, rows
from tests.support.cli import marram
from tests.support.processes import ended, eventually
from tests.support.sampled import drawn

CONFIGS = Path(__file__).parents[2] / "firmware_configs"
# Seconds of the site's time: what it learns from, and what is judged then, before and after the fault.
LEARNT = {
    "press-line": 150.0, "traffic-junction": 200_000.0, "ward": 9_000.0, "till": 150_000.0,
    "cold-cabinets": 40_000.0,
}  # fmt: skip
JUDGED = 0.25
# A fault shows more by day, and sites live by the clock.
_DAY, _HOUR = 86_400.0, 14 * 3600.0


@pytest.fixture(params=sorted(SITES))
def site(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def readings(site: str, seconds: float, **how: Any) -> bytes:
    """What the site's sensor said until an hour of yesterday, always the same, as JSON lines."""
    end = time.time() // _DAY * _DAY - _DAY + _HOUR
    said = rows(site, seconds, begin=end - seconds, **how)
    return "".join(json.dumps(row) + "\n" for row in said).encode()


@pytest.fixture
def config(site: str, tmp_path: Path) -> Path:
    path = tmp_path / "marram.yaml"
    path.write_text(f"extends: {CONFIGS / 'sites' / site}.yaml\n")
    written = yaml.safe_load((CONFIGS / "sites" / f"{site}.yaml").read_text())
    (sensor,) = written["sensors"]
    channels = list(sensor["channels"])
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "simulator.yaml").write_text(
        yaml.safe_dump(
            {
                "device": {"state": "../state"},
                "sensors": [{"type": "stdin", "name": sensor["name"], "time": "t", "channels": channels}],
                "outputs": [{"name": "o", "type": "jsonl", "path": "../predictions.jsonl"}],
                "watch": {"training_below": 150, "full_speed_below": 150},
                "learning": {
                    "schedule": {"after": 300},
                    "store": {"commit_every": "100ms"},
                    "governor": {"quiet_hours": [], "max_cpu": 100, "min_free_memory": 0, "on_battery": True},
                },
            }
        )
    )
    return path


def run(config: Path, said: bytes, until: str) -> None:
    """Run the agent on these readings until something of its status is so."""
    process = subprocess.Popen(
        [sys.executable, "-m", "marram.cli", "run", "-c", config],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    socket = config.parent / "state" / "marram.sock"
    assert process.stdin is not None

    def reached() -> bool:
        assert process.poll() is None, process.stderr.read()  # type: ignore[union-attr]
        try:
            status = ask(socket, {"command": "status"})
        except ControlError:
            return False
        if until == "trained":
            return bool(status["model"]["name"])
        return bool(status["windows"]["predicted"]) and not status["windows"]["waiting"] and fed

    fed = False
    try:
        process.stdin.write(said)
        process.stdin.close()
        fed = True
        eventually(until, reached)
    finally:
        process.terminate()
        process.wait(30)
        assert ended(process.pid)


def test_the_site_is_valid_on_its_own(site: str) -> None:
    done = marram("check", "-c", CONFIGS / "sites" / f"{site}.yaml")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("site", drawn(SITES, 2), indirect=True)
def test_the_site_learns_its_normal_and_finds_a_fault(site: str, config: Path) -> None:
    seconds = LEARNT[site]
    run(config, readings(site, seconds, seed=1), "trained")
    predictions = config.parent / "predictions.jsonl"
    shares = {}
    for fault in (False, True):
        predictions.unlink(missing_ok=True)
        run(config, readings(site, seconds * JUDGED, fault=fault, seed=2), "predicted")
        labels = [json.loads(line)["label"] for line in predictions.read_text().splitlines()]
        assert len(labels) > 20
        shares[fault] = labels.count("anomaly") / len(labels)
    assert shares[False] < 0.1, shares
    assert shares[True] > 0.7, shares
