"""Lines on a serial port: a microcontroller, a scale, a transmitter that prints its readings.

The port is set raw by termios(3). One that vanishes (a USB adapter that was pulled out) is an error that is
shown, and opened again when it is back.
"""

from __future__ import annotations

import errno
import os
import select
import termios
import threading
from collections.abc import Iterator
from typing import ClassVar, Literal

from marram.config.machine import BoardNames
from marram.errors import SensorError
from marram.sensors.fields import FieldMapper, FieldsConfig
from marram.sensors.lines import Format, Lines, TooLongError
from marram.sensors.sensor import SensorContext
from marram.stream.blocks import Samples

_BLOCK = 1 << 14
_POLL = 0.2
# A line of noise at the wrong speed has no end.
_LONGEST = 1 << 14
_BITS = {5: termios.CS5, 6: termios.CS6, 7: termios.CS7, 8: termios.CS8}
_ADVICE = {
    errno.ENOENT: "is it plugged in? `ls -l /dev/serial/by-id` shows what is",
    errno.EACCES: "the agent may not open it: `marram system dropins` writes what its service needs",
    errno.EPERM: "the agent may not open it: `marram system dropins` writes what its service needs",
    errno.EBUSY: "another program holds it",
}


class SerialConfig(FieldsConfig, frozen=True, kw_only=True, tag="serial"):
    """Lines on a serial port.

    port: device file, or one of the board's serial ports by name.
    baud: speed in bits a second.
    bits: data bits of a character.
    parity: parity bit.
    stop_bits: stop bits.
    format: json, or numbers with commas, semicolons or blanks between them; the first is the field "0".
    """

    on_board: ClassVar[dict[str, BoardNames]] = {"port": "serial"}

    port: str
    baud: Literal[
        1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600, 1000000, 2000000
    ] = 115200
    bits: Literal[5, 6, 7, 8] = 8
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1
    format: Format = "json"


class SerialSensor:
    """Reads one port; blocks at most 0.2 s beyond ``stop``."""

    live = True

    def __init__(self, config: SerialConfig, context: SensorContext) -> None:
        self.name = config.name
        self._config = config
        self._port = context.board.path("serial", config.port)
        self._mapper = FieldMapper(config, context.max_gap)
        self.channels = self._mapper.channels
        self.counters = self._mapper.counters
        self._clock = context.clock

    @property
    def first_malformed(self) -> str:
        """Why the first malformed line was refused, or ""."""
        return self._mapper.first_malformed

    def read(self, stop: threading.Event) -> Iterator[Samples]:
        try:
            port = self._open()
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, "is it a serial port?")
            raise SensorError(f"{self._port} cannot be opened: {error.strerror}; {advice}") from error
        try:
            yield from self._samples(port, stop)
        except OSError as error:
            raise SensorError(f"{self._port} cannot be read: {error.strerror}") from error
        finally:
            os.close(port)

    def _samples(self, port: int, stop: threading.Event) -> Iterator[Samples]:
        lines = Lines(self._config.format, self._mapper.malformed, _LONGEST)
        first = True
        while not stop.is_set():
            ready, _, _ = select.select([port], [], [], _POLL)
            if not ready:
                continue
            block = os.read(port, _BLOCK)
            if not block:
                raise SensorError(f"{self._port} is gone: was it pulled out?")
            if first:  # it was opened in the middle of a line
                _, end, block = block.partition(b"\n")
                first = not end
            arrival = self._clock()
            messages: list[object] = []
            try:
                messages.extend(lines.messages(block))
            except TooLongError as error:
                self._mapper.malformed(f"{error}: is {self._config.baud} the speed of this port?")
            samples = self._mapper.samples((arrival, message) for message in messages)
            if samples is not None:
                yield samples

    def _open(self) -> int:
        port = os.open(self._port, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            speed = getattr(termios, f"B{self._config.baud}")
            flags = termios.CREAD | termios.CLOCAL | _BITS[self._config.bits]
            if self._config.parity != "none":
                flags |= termios.PARENB | (termios.PARODD if self._config.parity == "odd" else 0)
            if self._config.stop_bits == 2:
                flags |= termios.CSTOPB
            attributes = termios.tcgetattr(port)
            check = termios.INPCK if self._config.parity != "none" else 0
            attributes[:6] = [termios.IGNBRK | check, 0, flags, 0, speed, speed]
            termios.tcsetattr(port, termios.TCSANOW, attributes)
            termios.tcflush(port, termios.TCIFLUSH)
        except termios.error as error:
            os.close(port)
            raise OSError(*error.args) from error
        return port


def open(config: SerialConfig, context: SensorContext) -> SerialSensor:
    """Opened when it is read: the port may come later than the daemon."""
    return SerialSensor(config, context)
