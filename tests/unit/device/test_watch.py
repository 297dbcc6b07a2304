"""The watch reads, decides, and hands its orders on; on a tree of /sys and a disk of its own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from marram.config.machine import Board, Watch
from marram.device.watch import Orders, Watcher

from tests.support import trees
from tests.support.disk import SmallDisk


class Scene:
    """A watch whose time and observations the test sets."""

    def __init__(self, folder: Path, board: Board | None = None, **settings: object) -> None:
        self.seen: dict[str, str] = {}
        self.orders: list[Orders] = []
        self.now = 1e6
        self.root = folder
        (folder / "state").mkdir(exist_ok=True)
        watch = Watch(**{"free_disk": 0, **settings})  # type: ignore[arg-type]
        self.watcher = Watcher(
            watch, board or Board(), folder / "state", lambda: self.seen, self.orders.append,
            folder / "sys", lambda: self.now,
        )  # fmt: skip

    def looks(self, seconds: float = 5) -> set[str]:
        """Look once more; the modes then."""
        self.now += seconds
        self.watcher.wake(self.now)
        return set(self.watcher.modes.active)


def test_orders_are_given_when_they_change_and_only_then(tmp_path):
    scene = Scene(tmp_path, training_below=70, full_speed_below=80, duty=0.25)
    for degrees in (40, 75, 76, 85, 77, 72, 50):
        trees.write(tmp_path, trees.zone(0, "cpu-thermal", degrees))
        scene.looks()
    assert [(bool(one.training), one.duty) for one in scene.orders] == [
        (True, 1.0), (True, 0.25), (True, 1.0), (False, 1.0),
    ]  # fmt: skip


def test_only_the_boards_zones_count(tmp_path):
    trees.write(tmp_path, trees.zone(0, "cpu-thermal", 50) | trees.zone(1, "charger", 95))
    assert Scene(tmp_path).looks() == {"hot"}
    assert Scene(tmp_path, Board(thermal_zones=("cpu-thermal",))).looks() == set()


def test_the_next_look_is_due_after_the_time_that_is_set(tmp_path):
    scene = Scene(tmp_path, every=7.0)
    assert scene.watcher.wake_at == 0.0
    scene.looks()
    assert scene.watcher.wake_at == scene.now + 7.0


def test_a_store_that_could_not_be_written_pauses_training_and_goes_on_trying(tmp_path):
    """Told to stop it could not say that it works again."""
    scene = Scene(tmp_path)
    scene.seen["disk-full"] = "state could not be written"
    assert scene.looks() == {"disk-full"}
    assert scene.orders[-1] == Orders(training="the disk is full", store=True)
    scene.seen.clear()
    assert scene.looks() == set()
    assert scene.orders[-1] == Orders()


def test_little_room_stops_the_store_and_on_a_small_disk_little_is_a_tenth(tmp_path):
    with ExitStack() as stack:
        try:
            stack.enter_context(SmallDisk(tmp_path / "state", "1m"))
        except (OSError, FileNotFoundError):
            pytest.skip("mounting is not allowed here")
        scene = Scene(tmp_path, free_disk=32 << 20)
        assert scene.looks() == set()
        (tmp_path / "state/filler").write_bytes(bytes(950_000))
        assert scene.looks() == {"disk-full"}
        assert not scene.orders[-1].store
        (tmp_path / "state/filler").unlink()
        assert scene.looks() == set()
        assert scene.orders[-1].store


def test_a_state_folder_that_is_gone_is_said(tmp_path):
    scene = Scene(tmp_path)
    scene.watcher.state = tmp_path / "gone"
    assert scene.looks() == {"disk-full"}
    assert "cannot be looked at" in scene.watcher.modes_status()["disk-full"]["reason"]


def test_the_status_tells_what_was_seen(tmp_path):
    trees.write(tmp_path, trees.zone(0, "cpu-thermal", 91.5) | trees.supply(True))
    scene = Scene(tmp_path, writes_per_day=1 << 30)
    scene.looks()
    scene.now += 60
    said = scene.watcher.status(scene.now)
    assert (said["degrees"], said["under_voltage"], said["writes_per_day"]) == (91.5, True, 1 << 30)
    assert said["training_paused"]
    assert scene.watcher.modes_status()["hot"]["since"] == 60.0
