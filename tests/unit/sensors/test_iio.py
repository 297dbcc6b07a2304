"""The kernel's industrial I/O, as a folder of files such as its drivers make."""

import pytest
from marram.config.machine import Board
from marram.errors import SensorError
from marram.sensors.iio import IioConfig, IioSensor
from marram.sensors.sensor import SensorContext

from tests.support.reading import Reading, read_all

ACCELEROMETER = {
    "name": "adxl345", "in_accel_x_raw": "100", "in_accel_y_raw": "-200", "in_accel_scale": "0.5",
    "in_accel_y_offset": "10", "sampling_frequency": "100.0",
}  # fmt: skip
AIR = {"name": "bme280", "in_temp_input": "21500", "in_voltage3_raw": "1000", "in_voltage_scale": "0.125"}


@pytest.fixture
def devices(tmp_path):
    for number, files in enumerate((ACCELEROMETER, AIR)):
        folder = tmp_path / f"iio:device{number}"
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text + "\n")
    return tmp_path


def sensor(devices, board=None, **keys):
    config = IioConfig(name="x", **{"device": "adxl345", "channels": ("accel_x",), "rate": 200, **keys})
    return IioSensor(config, SensorContext(board=board or Board()), devices)


def first(sensor):
    return read_all(sensor, 1).values[:, 0].tolist()


def test_a_value_is_raw_with_offset_and_scale(devices):
    assert first(sensor(devices, channels={"ax": "accel_x", "ay": "accel_y"})) == [50, -95]


def test_a_value_that_the_driver_converted_is_taken_as_it_is_and_a_scale_may_be_for_a_kind(devices):
    assert first(sensor(devices, device="bme280", channels=("temp", "voltage3"))) == [21500, 125]


@pytest.mark.parametrize("device", ["adxl345", "iio:device0", "vibration"])
def test_a_device_by_its_name_its_folder_or_the_boards_name(devices, device):
    assert first(sensor(devices, Board(iio={"vibration": "adxl345"}), device=device)) == [50]


def test_the_device_is_told_how_often_to_measure(devices):
    assert first(sensor(devices, sampling_frequency=400)) == [50]
    assert float((devices / "iio:device0/sampling_frequency").read_text()) == 400


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"device": "mpu6050"}, r"no industrial I/O device 'mpu6050'.*iio:device0 \(adxl345\)"),
        ({"channels": ("accel_z",)}, r"no channel 'accel_z'; it has: accel_x, accel_y"),
        ({"device": "bme280", "channels": ("temp",), "sampling_frequency": 5}, "no sampling_frequency"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(devices, keys, why):
    with pytest.raises(SensorError, match=why):
        first(sensor(devices, **keys))


def test_two_devices_of_one_name_are_told_apart_by_their_folder(devices):
    (devices / "iio:device1/name").write_text("adxl345\n")
    with pytest.raises(SensorError, match="several devices"):
        first(sensor(devices))
    assert first(sensor(devices, device="iio:device0")) == [50]


def test_a_device_that_goes_away_is_an_error(devices):
    with pytest.raises(SensorError, match="cannot be read"), Reading(sensor(devices)) as reading:
        reading.wait_for(1)
        (devices / "iio:device0/in_accel_x_raw").unlink()
        reading.wait_until(lambda: reading.error is not None)
