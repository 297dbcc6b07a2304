"""The machine as a sensor: this one for real, and a fake one for what a real kernel does not do on demand."""

import threading
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from marram.sensors import host
from marram.sensors.host import CHANNELS, HostConfig, HostSensor
from marram.sensors.sensor import SensorContext

from tests.support.reading import read_all


def test_this_machine_tells_plausible_values():
    sensor = host.open(HostConfig(name="own", rate=20), SensorContext())
    samples = read_all(sensor, most=4)
    row = dict(zip(CHANNELS, samples.values, strict=True))
    assert np.isfinite(samples.values).all()
    for percent in ("cpu", "memory", "swap"):
        assert ((row[percent] >= 0) & (row[percent] <= 100)).all()
    assert row["memory"].min() > 0
    for rate in ("disk_read", "disk_write", "net_received", "net_sent", "load1"):
        assert (row[rate] >= 0).all()
    assert (row["temperature"] < 150).all()


class Machine:
    """A psutil whose counters the test sets, and a clock that moves when the sensor waits."""

    def __init__(self):
        self.now = 50.0
        self.disk, self.net = [1000, 2000], [10, 20]
        self.step = lambda: None

    def wait(self, seconds):
        self.now += seconds
        self.step()
        return False

    def cpu_percent(self, interval):
        return 25.0

    def virtual_memory(self):
        return SimpleNamespace(percent=50.0)

    swap_memory = virtual_memory

    def getloadavg(self):
        return (1.5, 1, 1)

    def sensors_temperatures(self):
        entry = SimpleNamespace
        return {"a": [entry(current=40.0), entry(current=None)], "b": [entry(current=55.5)]}

    def disk_io_counters(self):
        return SimpleNamespace(read_bytes=self.disk[0], write_bytes=self.disk[1])

    def net_io_counters(self):
        return SimpleNamespace(bytes_recv=self.net[0], bytes_sent=self.net[1])

    def sensor(self, rate=2.0):
        context = SensorContext(clock=lambda: 1e9 + self.now, monotonic=lambda: self.now)
        return HostSensor(HostConfig(name="own", rate=rate), context, self)


def take(machine, sensor, count):
    """So many readings, as rows by channel, with their times."""
    rows = []
    for samples in sensor.read(machine):
        rows.append((float(samples.time[0]), dict(zip(CHANNELS, samples.values[:, 0].tolist(), strict=True))))
        if len(rows) == count:
            return rows
    raise AssertionError("it ended")


def test_counters_become_rates_over_the_time_between_readings():
    machine = Machine()

    def step():
        machine.disk = [machine.disk[0] + 100, machine.disk[1] + 200]
        machine.net = [machine.net[0] + 300, machine.net[1] + 400]

    machine.step = step
    ((first, row), (second, again)) = take(machine, machine.sensor(rate=2), 2)
    assert second - first == pytest.approx(0.5)
    assert (row["disk_read"], row["disk_write"], row["net_received"], row["net_sent"]) == (200, 400, 600, 800)
    assert again == row
    assert (row["cpu"], row["memory"], row["load1"], row["temperature"]) == (25, 50, 1.5, 55.5)


def test_a_counter_that_wraps_reads_0_once_and_is_counted():
    machine, sensor = Machine(), None
    totals = iter([5000, 7, 1007])

    def step():
        machine.disk[0] = next(totals)

    machine.step = step
    sensor = machine.sensor(rate=1)
    rates = [row["disk_read"] for _, row in take(machine, sensor, 3)]
    assert rates == [4000, 0, 1000]
    assert sensor.counters["wrapped"] == 1


def test_ticks_that_were_slept_through_are_skipped_and_counted_and_the_phase_is_kept():
    machine = Machine()
    sensor = machine.sensor(rate=1)
    times = []
    for samples in sensor.read(machine):
        times.append(float(samples.time[0]) - 1e9 - 50)
        if len(times) == 2:
            machine.now += 5.5
        if len(times) == 4:
            break
    assert times == [1, 2, 7.5, 8]
    assert sensor.counters["late"] == 4


@pytest.mark.parametrize(
    "error",
    [OSError("no"), RuntimeError("no"), NotImplementedError("no /proc/diskstats"), AttributeError("no")],
)
@pytest.mark.parametrize(
    ("reading", "channels"),
    [
        ("disk_io_counters", ("disk_read", "disk_write")),
        ("net_io_counters", ("net_received", "net_sent")),
        ("swap_memory", ("swap",)),
        ("sensors_temperatures", ("temperature",)),
        ("getloadavg", ("load1",)),
    ],
)
def test_what_the_machine_does_not_tell_is_0(monkeypatch, error, reading, channels):
    machine = Machine()

    def refuse():
        raise error

    monkeypatch.setattr(machine, reading, refuse)
    ((_, row),) = take(machine, machine.sensor(), 1)
    assert [row[channel] for channel in channels] == [0] * len(channels)
    assert row["cpu"] == 25


def test_a_machine_without_disks_and_network_reads_0(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(machine, "disk_io_counters", lambda: None)
    monkeypatch.setattr(machine, "net_io_counters", lambda: None)
    ((_, row),) = take(machine, machine.sensor(), 1)
    assert (row["disk_read"], row["net_sent"]) == (0, 0)


def test_it_ends_soon_after_it_is_told_to():
    stop = threading.Event()
    sensor = HostSensor(HostConfig(name="own", rate=0.001), SensorContext(), psutil)
    threading.Timer(0.1, stop.set).start()
    assert list(sensor.read(stop)) == []
