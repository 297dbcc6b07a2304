"""What the machine has to spare, measured on this very machine."""

import os
import subprocess
import sys

import psutil
from marram.device.resources import Resources, minute_of_day


def burn(seconds: str, processes: int) -> list[subprocess.Popen]:
    code = f"import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass"
    return [subprocess.Popen([sys.executable, "-c", code]) for _ in range(processes)]


def test_the_load_of_own_children_is_not_the_load_of_others():
    resources = Resources()
    before = psutil.cpu_times()
    for process in burn("0.5", 1):
        process.wait()
    others = resources.others_cpu()
    after = psutil.cpu_times()
    busy = sum(after) - sum(before) - (after.idle - before.idle) - (after.iowait - before.iowait)
    whole = 100 * busy / (sum(after) - sum(before))
    assert 0 <= others <= 100
    assert others < whole  # the half second was ours


def test_free_memory_is_what_the_machine_has_at_most():
    assert 0 < Resources().free_memory() <= psutil.virtual_memory().total


def test_the_memory_of_this_process_is_told_in_bytes():
    rss, pss = Resources().memory()
    assert rss == psutil.Process(os.getpid()).memory_info().rss or rss > 1 << 20
    assert 0 <= pss <= rss * 1.1


def test_a_machine_without_battery_gives_none(monkeypatch):
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None, raising=False)
    assert Resources().battery() is None


def test_mains_is_no_battery(monkeypatch):
    class Battery:
        percent = 61

        def __init__(self, plugged):
            self.power_plugged = plugged

    monkeypatch.setattr(psutil, "sensors_battery", lambda: Battery(False), raising=False)
    assert Resources().battery() == 61.0
    monkeypatch.setattr(psutil, "sensors_battery", lambda: Battery(True), raising=False)
    assert Resources().battery() is None


def test_the_minute_lies_in_a_day():
    assert 0 <= minute_of_day() < 1440
