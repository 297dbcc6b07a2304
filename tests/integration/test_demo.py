"""``make demo`` in a short form: the whole story, with fewer rounds; what must be true of its report."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from examples.shoulder.demo.site import CANARIES, GROUP

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
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 5
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


def test_a_good_release_comes_to_all_in_stages(report: dict[str, Any]) -> None:
    releases, good = report["releases"], f"shoulder/{report['release']['version']}.marram"
    canaries, half, everybody = f"group:{GROUP}", f"50%, group:{GROUP}", f"all, group:{GROUP}"
    assert [stage["to"] for stage in releases["stages"]] == [canaries, half, everybody]
    fetched = [one for one in releases["reports"] if (one["stage"], one["release"]) == ("fetching", good)]
    first = {one["device"] for one in fetched if one["seconds"] < releases["stages"][1]["seconds"]}
    assert first == set(CANARIES)
    assert {one["device"] for one in fetched} == set(releases["running_at_the_end"])
    assert list(releases["running_at_the_end"].values()) == [good] * 8


def test_a_bad_release_is_undone_by_the_first_devices_and_begun_by_no_other(report: dict[str, Any]) -> None:
    bad = report["releases"]["bad"]
    assert set(bad["rolled_back"]) == set(bad["begun_by"]) == set(CANARIES)
    for reason in bad["rolled_back"].values():
        assert "labelled windows, the running model on" in reason
    assert bad["paused"].startswith("2 of 2 devices that finished went back: ")


def test_a_forged_release_is_refused_by_every_device(report: dict[str, Any]) -> None:
    forged = report["releases"]["forged"]
    assert len(forged["refused_by"]) == 8
    assert {one["problem"] for one in forged["refused_by"].values()} == {"timestamp was signed by 0/1 keys"}
    assert report["windows"]["lost_in_swap"] == report["windows"]["dropped"] == 0


def test_nothing_but_the_good_release_has_ever_run(report: dict[str, Any]) -> None:
    running = {one["running"] for one in report["releases"]["reports"]} - {""}
    assert running == {f"shoulder/{report['release']['version']}.marram"}


def test_a_delta_has_at_most_a_twentieth_of_the_fp32_bytes(report: dict[str, Any]) -> None:
    assert report["bytes"]["up_per_device_round"] * 20 <= report["bytes"]["fp32_parameters"]
