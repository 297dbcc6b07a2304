"""The sections ``board`` and ``watch``: what the hardware is called, and what it must be spared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from marram.config.values import Duration, Size

DevicePath = Annotated[
    str, msgspec.Meta(pattern=r"^/[^\0]+$(?!\n)", examples=["/dev/ttyAMA0", "/dev/serial/by-id/usb-x"])
]
ZoneType = Annotated[str, msgspec.Meta(min_length=1, examples=["cpu-thermal", "x86_pkg_temp"])]
IioDevice = Annotated[str, msgspec.Meta(min_length=1, examples=["iio:device0", "adxl345"])]
Celsius = Annotated[float, msgspec.Meta(ge=-40, le=150)]
BoardNames = Literal["serial", "i2c", "iio"]
PositiveSize = Annotated[Size, msgspec.Meta(gt=0)]


class Board(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The board, as its manufacturer and its kernel name things; sensors may use the names given here.

    name: what the board is called.
    serial: serial ports by name; a sensor's port may be such a name.
    i2c: I2C buses by name; a sensor's bus may be such a name.
    iio: devices of the kernel's industrial I/O by name; a sensor's device may be such a name.
    thermal_zones: types of the thermal zones that are watched, by default every one that there is.
    power: what the device runs on.
    memory: memory that the agent may take in all, its child processes not counted; by default no limit.
    """

    name: str = ""
    serial: dict[str, DevicePath] = {}
    i2c: dict[str, DevicePath] = {}
    iio: dict[str, IioDevice] = {}
    thermal_zones: tuple[ZoneType, ...] = ()
    power: Literal["mains", "battery", "poe"] = "mains"
    memory: PositiveSize | None = None

    def path(self, kind: BoardNames, value: str) -> str:
        """What a sensor's ``port``, ``bus`` or ``device`` stands for: a name of the board's, or itself."""
        names: dict[str, str] = getattr(self, kind)
        return names.get(value, value)


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the machine must be spared: heat, low voltage, wear of its storage, a full disk.

    every: time between two looks.
    training_below: training pauses while the hottest zone is above, in degrees Celsius.
    full_speed_below: inference is given only its duty while the hottest zone is above, in degrees Celsius;
    by default never.
    duty: share of the time that inference may take then.
    under_voltage: what the supply's voltage falling too low does.
    writes_per_day: most that is written to storage in a day; above it what is optional is written more
    rarely. By default no limit.
    free_disk: with less than this free (on a small disk a tenth of it), nothing but what must be is written.
    """

    every: Annotated[Duration, msgspec.Meta(gt=0)] = 5.0
    training_below: Celsius = 80.0
    full_speed_below: Celsius | None = None
    duty: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    under_voltage: Literal["pause_training", "ignore"] = "pause_training"
    writes_per_day: PositiveSize | None = None
    free_disk: Size = 32 * 1024 * 1024

    def problems(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """Cross-field mistakes."""
        if self.full_speed_below is not None and self.full_speed_below < self.training_below:
            yield (
                ("full_speed_below",),
                f"expected at least training_below ({self.training_below:g}), "
                f"found {self.full_speed_below:g}: training pauses first",
            )
