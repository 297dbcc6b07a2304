"""Registers of a chip, on a bus that is made of a table (a real one needs the wires)."""

import errno
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.config.machine import Board
from marram.errors import SensorError
from marram.sensors.i2c import I2cChannel, I2cConfig, I2cSensor
from marram.sensors.sensor import SensorContext

from tests.support.reading import read_all

CHIP = 0x68


class Bus:
    """A chip that sleeps until 0 is written to register 0x6b."""

    def __init__(self, registers=b"", asleep=False):
        self.registers, self.asleep, self.path = registers, asleep, None

    def __call__(self, path):
        self.path = path
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def write_byte_data(self, address, register, value):
        assert address == CHIP
        self.asleep = self.asleep and not (register == 0x6B and value == 0)

    def read_i2c_block_data(self, address, register, length):
        if address != CHIP:
            raise OSError(errno.EREMOTEIO, "Remote I/O error")
        return [0] * length if self.asleep else list(self.registers[register : register + length])


def sensor(chip, board=None, **keys):
    keys = {
        "channels": {"a": I2cChannel(register=0)},
        "rate": 200,
        "bus": "/dev/i2c-1",
        "address": CHIP,
        **keys,
    }
    return I2cSensor(I2cConfig(name="x", **keys), SensorContext(board=board or Board()), chip)


def first(sensor):
    return read_all(sensor, 1).values[:, 0].tolist()


def test_each_channel_has_its_register_scale_and_offset():
    channels = {
        "x": I2cChannel(register=0, scale=0.5), "y": I2cChannel(register=2, number="u8", offset=-1),
        "z": I2cChannel(register=3, number="i24be"),
    }  # fmt: skip
    assert first(sensor(Bus(b"\xff\xfe\x05\xff\xff\xfd"), channels=channels)) == [-1, 4, -3]


KINDS = {
    "u8": ">B", "i8": ">b", "u16le": "<H", "u16be": ">H", "i16le": "<h", "i16be": ">h", "i32le": "<i",
    "i32be": ">i", "f32le": "<f", "f32be": ">f",
}  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.binary(min_size=4, max_size=4))
def test_numbers_as_they_are_written(kind, data):
    size = struct.calcsize(KINDS[kind])
    (expected,) = struct.unpack(KINDS[kind], data[:size])
    found = first(sensor(Bus(data), channels={"a": I2cChannel(register=0, number=kind)}, rate=1000))
    assert found == pytest.approx([expected], rel=1e-6, nan_ok=True)


def test_a_chip_that_sleeps_is_woken_first():
    bus = Bus(b"\x00\x07", asleep=True)
    assert first(sensor(bus, start=((0x6B, 0),))) == [7]


def test_a_bus_by_the_boards_name():
    bus = Bus(b"\x00\x07")
    assert first(sensor(bus, Board(i2c={"header": "/dev/i2c-7"}), bus="header")) == [7]
    assert bus.path == "/dev/i2c-7"


def test_an_address_at_which_no_chip_answers_is_said():
    with pytest.raises(SensorError, match=r"address 0x10.*no chip answers.*i2cdetect"):
        first(sensor(Bus(), address=0x10))


def test_too_few_bytes_are_no_value():
    with pytest.raises(SensorError, match="1 bytes came, 2 were asked for"):
        first(sensor(Bus(b"\x01")))


def test_a_bus_that_is_not_there_is_an_error_of_the_real_library(tmp_path):
    from smbus2 import SMBus

    with pytest.raises(SensorError, match="is I2C switched on"):
        first(sensor(SMBus, bus=str(tmp_path / "i2c-9")))
