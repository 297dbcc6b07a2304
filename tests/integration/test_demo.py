"""``make demo`` in a short form: the whole story, with fewer rounds; what must be true of its report."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

ROUNDS = 12


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("demo")
    command = [
        sys.executable,
        "-m",
        "examples.shoulder.demo",
        "--folder",
        str(folder),
        "--rounds",
        str(ROUNDS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 4
    loaded: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return loaded


def test_every_accepted_delta_is_counted_exactly_once(report: dict[str, Any]) -> None:
    deltas = report["deltas"]
    assert report["rounds"] == ROUNDS
    assert deltas["accepted"] == deltas["counted"] == deltas["receipts"] > 6 * ROUNDS


def test_every_message_of_the_intruder_is_refused_under_its_reason(report: dict[str, Any]) -> None:
    assert report["refused"] == {"forged": 1, "tampered": 1, "replayed": 1, "wrong_base": 1}
    by_reason = report["refused_by_reason"]
    assert by_reason["unknown_device"] == by_reason["bad_signature"] == by_reason["wrong_base"] == 1


def test_two_devices_and_the_aggregator_were_killed_and_came_back(report: dict[str, Any]) -> None:
    assert report["kills"] == {"aggregator": 1, "person-03": 1, "person-05": 1}
    said = " ".join(event["text"] for event in report["events"])
    for back in ("person-03 is back", "person-05 is back", "the aggregator is back"):
        assert back in said


def test_the_fleet_has_learnt_and_runs_it_in_int8_with_no_window_lost(report: dict[str, Any]) -> None:
    accuracy, windows = report["accuracy"], report["windows"]
    assert accuracy["start"] < 0.4 < 0.6 < accuracy["final_int8"]
    assert abs(accuracy["final_int8"] - accuracy["final_fp32"]) < 0.03
    assert windows["lost_in_swap"] == windows["failed"] == 0 < windows["predicted"]


def test_a_delta_has_at_most_a_twentieth_of_the_fp32_bytes(report: dict[str, Any]) -> None:
    assert report["bytes"]["up_per_device_round"] * 20 <= report["bytes"]["fp32_parameters"]
