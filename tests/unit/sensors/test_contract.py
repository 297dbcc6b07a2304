"""What holds for every sensor: the same checks on each, read as the daemon reads them."""

import json
import os
import pty
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from marram.sensors.csv import CsvConfig
from marram.sensors.host import HostConfig
from marram.sensors.iio import IioConfig, IioSensor
from marram.sensors.mqtt import MqttConfig
from marram.sensors.sensor import SENSORS, SensorContext
from marram.sensors.serial import SerialConfig
from marram.sensors.stdin import StdinConfig, StdinSensor

from tests.support.configs import RECORDING
from tests.support.mosquitto import Client, Mosquitto
from tests.support.reading import Reading


@contextmanager
def a_recording(folder):
    yield SENSORS.open(CsvConfig(name="x", path=RECORDING, label="exercise", repeat=True), SensorContext())


@contextmanager
def a_fast_recording(folder):
    yield SENSORS.open(CsvConfig(name="x", path=RECORDING, speed="max", repeat=True), SensorContext())


@contextmanager
def this_machine(folder):
    yield SENSORS.open(HostConfig(name="x", rate=50), SensorContext())


@contextmanager
def a_pipe(folder):
    read, write = os.pipe()
    os.write(write, b'{"a": 1, "b": 2}\n' * 3)
    yield StdinSensor(StdinConfig(name="x", channels=("a", "b"), label="what"), SensorContext(), read)
    os.close(read)
    os.close(write)


@contextmanager
def a_topic(folder):
    with Mosquitto(folder) as broker, Client(broker) as client:
        client.publish("t", json.dumps([{"a": 1, "b": 2}] * 3), retain=True)
        yield SENSORS.open(
            MqttConfig(name="x", broker=broker.url, topic="t", channels=("a", "b")), SensorContext()
        )


@contextmanager
def a_serial_port(folder):
    wire, device = pty.openpty()
    done = threading.Event()

    def talk():
        while not done.wait(0.02):
            os.write(wire, b'{"a": 1, "b": 2}\n')

    thread = threading.Thread(target=talk)
    thread.start()
    config = SerialConfig(name="x", port=os.ttyname(device), channels=("a", "b"))
    yield SENSORS.open(config, SensorContext())
    done.set()
    thread.join()
    os.close(wire)
    os.close(device)


@contextmanager
def a_kernel_device(folder):
    device = folder / "iio:device0"
    device.mkdir()
    (device / "name").write_text("adc")
    (device / "in_voltage0_raw").write_text("7")
    config = IioConfig(name="x", device="adc", channels=("voltage0",), rate=100)
    yield IioSensor(config, SensorContext(), folder)


@pytest.fixture(
    params=[a_serial_port, a_kernel_device, a_recording, a_fast_recording, this_machine, a_pipe, a_topic],
    ids=lambda make: make.__name__,
)
def sensor(request, tmp_path):
    with request.param(tmp_path) as sensor:
        yield sensor


def test_samples_have_the_sensors_shape_and_time_never_decreases(sensor):
    with Reading(sensor) as reading:
        reading.wait_for(3)
    assert sensor.name == "x"
    assert len(set(sensor.channels)) == len(sensor.channels) > 0
    newest = -np.inf
    for block in reading.blocks:
        assert block.time.dtype == np.float64
        assert block.values.dtype == np.float32
        assert block.values.shape == (len(sensor.channels), len(block))
        assert block.labels is None or block.labels.shape == (len(block),)
        assert len(block) > 0
        assert np.isfinite(block.time).all()
        assert block.time[0] >= newest
        assert (np.diff(block.time) >= 0).all()
        newest = block.time[-1]


@pytest.mark.parametrize("make", [a_recording, a_fast_recording, this_machine, a_topic])
def test_it_can_be_read_again_after_it_was_stopped(make, tmp_path):
    """As the daemon does after an error; what a pipe has given it cannot give again."""
    with make(tmp_path) as sensor:
        for _ in range(2):
            with Reading(sensor) as reading:
                reading.wait_for(1)


def test_counters_are_whole_numbers_that_only_grow(sensor):
    before = dict(sensor.counters)
    with Reading(sensor) as reading:
        reading.wait_for(3)
    assert before.keys() == sensor.counters.keys()
    for kind, count in sensor.counters.items():
        assert isinstance(count, int)
        assert count >= before[kind]
