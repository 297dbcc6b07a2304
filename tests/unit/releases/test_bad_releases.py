"""Bad releases roll back by themselves, for the right reason, and inference loses no window."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from marram.config.schema import Learning
from marram.learning.store import SampleStore, StoreSettings
from marram.stream.blocks import Windows

from tests.support.fleet_repository import Repository
from tests.support.releases import released, spoilt
from tests.support.updates import rig
from tests.support.windows import SHOULDER, bundle, shoulder_windows


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "fleet")


def store(path: Path, labelled: bool) -> str:
    """A sample store with one person's windows."""
    manifest = bundle(SHOULDER).manifest
    settings = StoreSettings(64 << 20, 1e12, 30.0, Learning().holdout)
    made = SampleStore(path, manifest.family, (6, 100), settings)
    windows = shoulder_windows(1)
    labels = windows.labels if labelled else np.full_like(windows.labels, -1)
    made.add(Windows(windows.start, windows.end, windows.values, labels, windows.repaired), windows.end[-1])
    made.close(windows.end[-1])
    return str(path)


def median_sum() -> float:
    return float(np.median(shoulder_windows(1).values.sum(axis=(1, 2))))


CASES = {
    "slow": (lambda: spoilt("slow"), False, "us of processor time a window"),
    "large": (lambda: spoilt("large"), False, "MiB of memory"),
    "agreement": (lambda: spoilt("half", median_sum()), False, "agrees with the running model on"),
    "other-classes": (lambda: spoilt("permuted"), False, "agrees with the running model on"),
    "wrong-labels": (lambda: spoilt("permuted"), True, "labelled windows"),
    "crashes-on-load": (lambda: b"\x08\x09" + b"no model at all" * 40, False, "cannot load"),
}


@pytest.mark.parametrize(("infer", "labelled", "why"), CASES.values(), ids=CASES)
def test_it_rolls_back(repository: Repository, tmp_path: Path, infer, labelled: bool, why: str) -> None:
    repository.release(released("1", infer=infer()), "1")
    with rig(tmp_path / "device", repository, store=store(tmp_path / "windows.db", labelled)) as device:
        reason = device.until_stage("rolled_back")
        assert why in reason
        assert (device.running, device.inference.failed) == ("", 0)
        assert device.inference.model.name == "shoulder 0"


def trap(windows: Windows) -> Windows:
    values = windows.values[:1].copy()
    values[0, 0, 0] = 2e6
    return Windows(windows.start[:1], windows.end[:1], values, windows.labels[:1], windows.repaired[:1])


def test_one_that_fails_on_a_late_window_is_caught_in_the_trial(
    repository: Repository, tmp_path: Path
) -> None:
    repository.release(released("1", infer=spoilt("trap")), "1")
    with rig(tmp_path / "device", repository) as device:
        device.until_stage("trial")
        device.inference.predict(trap(shoulder_windows(1)))
        reason = device.until_stage("rolled_back")
        assert "failed on 1 of" in reason
        assert device.inference.failed == 0


def test_one_that_fails_after_its_commit_gives_way_and_no_window_is_lost(
    repository: Repository, tmp_path: Path
) -> None:
    repository.release(released("1", infer=spoilt("trap")), "1")
    with rig(tmp_path / "device", repository) as device:
        device.until_stage("committed")
        before = device.inference.predicted
        device.inference.predict(trap(shoulder_windows(1)))
        assert device.inference.predicted == before + 1
        reason = device.until_stage("rolled_back")
        assert "Gather" in reason
        assert (device.running, device.inference.failed) == ("", 0)
        assert device.inference.model.name == "shoulder 0"


def test_one_that_ends_its_process_is_rolled_back(repository: Repository, tmp_path: Path) -> None:
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository) as device:
        device.until_stage("trial", feed=False)
        os.kill(device.updater.trying.pid or 0, signal.SIGSEGV)
        assert "signal 11" in device.until_stage("rolled_back")


def test_three_times_down_in_its_trial_is_enough(repository: Repository, tmp_path: Path) -> None:
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository) as device:
        device.until_stage("trial", feed=False)
        device.stop(well=False)
    for _ in range(2):
        device = device.again()
        assert device.inference.model.name == "shoulder 0"
        device.until_stage("trial", feed=False)
        device.stop(well=False)
    device = device.again()
    try:
        assert "went down 3 times" in device.until_stage("rolled_back")
        assert device.running == ""
    finally:
        device.stop()


def test_three_starts_that_end_badly_bring_the_former_model_back(
    repository: Repository, tmp_path: Path
) -> None:
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository) as device:
        device.until_stage("committed")
        device.stop(well=False)
    for _ in range(2):
        device = device.again()
        assert device.inference.model.name == "shoulder 1"
        device.stop(well=False)
    device = device.again()
    try:
        assert device.inference.model.name == "shoulder 0"
        assert "went down 3 times while it ran" in device.told[1]
    finally:
        device.stop()


def test_stops_as_asked_count_for_nothing(repository: Repository, tmp_path: Path) -> None:
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository) as device:
        device.until_stage("trial", feed=False)
    for _ in range(4):
        device = device.again()
        device.until_stage("trial", feed=False)
        device.stop()
    device = device.again()
    try:
        device.until_stage("committed")
    finally:
        device.stop()
