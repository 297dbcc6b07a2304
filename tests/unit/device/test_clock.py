"""The time that the agent goes by."""

from marram.device.clock import Clock


class Scene:
    floor, machine, passed = 1000.0, 0.0, 50.0

    def __init__(self):
        self.clock = Clock(lambda: self.floor, lambda: self.machine, lambda: self.passed)

    def later(self, seconds):
        self.machine += seconds
        self.passed += seconds


def test_a_right_clock_is_the_time():
    scene = Scene()
    scene.machine = 2000.0
    assert scene.clock() == 2000.0


def test_behind_the_floor_time_goes_on_from_there():
    scene = Scene()
    assert scene.clock() == 1000.0
    scene.later(70)
    assert scene.clock() == 1070.0


def test_a_floor_that_follows_the_time_does_not_hold_it_up():
    scene = Scene()
    for _ in range(3):
        scene.floor = scene.clock()
        scene.later(10)
    assert scene.clock() == 1030.0


def test_once_the_clock_is_set_it_counts():
    scene = Scene()
    scene.clock()
    scene.later(10)
    scene.machine = 5000.0
    assert scene.clock() == 5000.0


def test_a_floor_that_is_taken_back_is_forgotten():
    scene = Scene()
    scene.floor = 9000.0
    assert scene.clock() == 9000.0
    scene.floor = 1000.0
    assert scene.clock() == 1000.0
