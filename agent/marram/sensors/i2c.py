"""Registers of a chip on an I2C bus, for chips without a driver in the kernel.

Each channel is a block of bytes from a register, read by an SMBus block read, so that a value of several
bytes is of one moment.
"""

from __future__ import annotations

import errno
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, ClassVar, Literal, Protocol

import msgspec

from marram.config.machine import BoardNames
from marram.errors import SensorError
from marram.sensors.polling import poll
from marram.sensors.sensor import SensorConfig, SensorContext
from marram.stream.blocks import Samples

Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
Number = Literal[
    "u8", "i8", "u16le", "u16be", "i16le", "i16be", "u24be", "i24be", "i32le", "i32be", "f32le", "f32be"
]
_STRUCT = {
    "u8": ">B", "i8": ">b", "u16le": "<H", "u16be": ">H", "i16le": "<h", "i16be": ">h",
    "i32le": "<i", "i32be": ">i", "f32le": "<f", "f32be": ">f",
}  # fmt: skip
_ADVICE = {
    errno.ENOENT: "is I2C switched on, and is the module i2c-dev loaded?",
    errno.EACCES: "the agent may not open it: `marram system dropins` writes what its service needs",
    errno.EPERM: "the agent may not open it: `marram system dropins` writes what its service needs",
    errno.EREMOTEIO: "no chip answers at this address: `i2cdetect -y BUS` shows which do",
    errno.ENXIO: "no chip answers at this address: `i2cdetect -y BUS` shows which do",
    errno.EBUSY: "a driver of the kernel has this chip: use the sensor type iio",
}


class I2cChannel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One value: (number + offset) * scale.

    register: where its first byte stands.
    number: how it is written; be is with the most significant byte first.
    scale: what one count is in the channel's unit.
    offset: in counts.
    """

    register: Byte
    number: Number = "i16be"
    scale: float = 1.0
    offset: float = 0.0


class I2cConfig(SensorConfig, frozen=True, kw_only=True, tag="i2c"):
    """Registers of a chip on an I2C bus, polled.

    bus: device file ("/dev/i2c-1"), or one of the board's I2C buses by name.
    address: the chip's address, 7 bits.
    channels: the registers of each channel.
    rate: readings a second.
    start: pairs of register and byte that are written before the first reading, to wake the chip up.
    """

    on_board: ClassVar[dict[str, BoardNames]] = {"bus": "i2c"}

    bus: str
    address: Annotated[int, msgspec.Meta(ge=3, le=119)]
    channels: dict[str, I2cChannel]
    rate: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 50.0
    start: tuple[tuple[Byte, Byte], ...] = ()

    def problems(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """Cross-field mistakes."""
        if not self.channels:
            yield ("channels",), "expected at least one channel, found none"


class Bus(Protocol):
    """What is used of ``smbus2.SMBus``."""

    def write_byte_data(self, i2c_addr: int, register: int, value: int) -> None: ...

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> Sequence[int]: ...


class I2cSensor:
    """Reads one chip. smbus: opens the bus; called whenever reading begins."""

    live = True

    def __init__(
        self, config: I2cConfig, context: SensorContext, smbus: Callable[[str], AbstractContextManager[Bus]]
    ) -> None:
        self.name = config.name
        self.channels = tuple(config.channels)
        self.counters = {"late": 0}
        self._config, self._smbus = config, smbus
        self._path = context.board.path("i2c", config.bus)
        self._clock, self._monotonic = context.clock, context.monotonic

    def read(self, stop: threading.Event) -> Iterator[Samples]:
        config = self._config
        try:
            with self._smbus(self._path) as bus:
                for register, value in config.start:
                    bus.write_byte_data(config.address, register, value)
                yield from poll(
                    lambda: [self._value(bus, channel) for channel in config.channels.values()],
                    config.rate, self._clock, self._monotonic, self.counters, stop,
                )  # fmt: skip
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, "look at the wiring")
            raise SensorError(
                f"{self._path}, address 0x{config.address:02x}: {error.strerror or error}; {advice}"
            ) from error

    def _value(self, bus: Bus, channel: I2cChannel) -> float:
        size = int(channel.number[1:3].rstrip("lb")) // 8
        data = bytes(bus.read_i2c_block_data(self._config.address, channel.register, size))
        if len(data) != size:
            raise SensorError(f"{self._path}: {len(data)} bytes came, {size} were asked for")
        return (_number(channel.number, data) + channel.offset) * channel.scale


def _number(kind: str, data: bytes) -> float:
    if kind in _STRUCT:
        return float(struct.unpack(_STRUCT[kind], data)[0])
    return float(int.from_bytes(data, "big", signed=kind[0] == "i"))


def open(config: I2cConfig, context: SensorContext) -> I2cSensor:
    """Opened when it is read."""
    try:
        from smbus2 import SMBus
    except ImportError as error:
        raise SensorError(f"sensor {config.name}: smbus2 is not installed: {error}") from error
    return I2cSensor(config, context, SMBus)
