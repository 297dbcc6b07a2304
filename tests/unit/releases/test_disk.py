"""A full disk while a release comes: a clear error, and the running model goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.disk import SmallDisk
from tests.support.fleet_repository import Repository
from tests.support.releases import released
from tests.support.updates import Rig


def test_a_full_disk_is_a_clear_error_and_leaves_the_running_model_alone(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "fleet")
    disk = SmallDisk(tmp_path / "disk", "1m")
    try:
        disk.__enter__()
    except OSError:
        pytest.skip("nobody may mount a disk here; integration/test_disk.py has other ways")
    try:
        device = Rig(tmp_path / "disk" / "device", repository)
        device.start()
        device.until("a look", lambda: device.updater.checked > 0)
        disk.fill()
        repository.release(released("1"), "1")
        device.check()
        device.until("the error", lambda: "No space left" in device.updater.problem)
        assert device.running == ""
        assert device.inference.failed == 0
        assert device.inference.model.name == "shoulder 0"
        disk.free()
        device.check()
        device.until("version 1", lambda: device.running == "shoulder/1.marram")
        device.stop()
    finally:
        disk.__exit__()
