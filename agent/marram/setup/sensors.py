"""What this machine could measure with: serial ports, industrial I/O, itself; and how a person writes one.

A sensor is written ``host``, ``serial:PORT[@BAUD]``, ``iio:DEVICE`` or ``csv:FILE``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marram.device.thermal import number, read
from marram.errors import MarramError

KINDS = ("host", "serial", "iio", "csv")
_CHANNEL = re.compile(r"in_(.+)_(?:raw|input)")


class SetupError(MarramError):
    """What was asked for cannot be written down, or nobody answers."""


@dataclass(frozen=True)
class Found:
    """written: as for ``--sensor``. words: for people."""

    written: str
    words: str


def find(root: Path) -> list[Found]:
    """Everything that could be a sensor; the machine itself last."""
    return [*_serial(root), *_iio(root), Found("host", "this machine's own load and temperature")]


def buses(root: Path) -> list[str]:
    """I2C buses: what is on them is not looked for, as some chips take a look for a command."""
    return sorted(f"/dev/{path.name}" for path in (root / "dev").glob("i2c-*"))


def config(written: str, channels: Sequence[str], root: Path, taken: Sequence[str] = ()) -> dict[str, Any]:
    """A sensor's part of the YAML. channels: of the model; taken: others' names. Raises SetupError."""
    kind, _, rest = written.partition(":")
    if kind not in KINDS or (rest == "") != (kind == "host"):
        raise SetupError(
            f"{written!r} is no sensor; write host, serial:PORT or serial:PORT@BAUD, iio:DEVICE, csv:FILE"
        )
    name = next(name for name in _names(kind) if name not in taken)
    found: dict[str, Any] = {"type": kind, "name": name}
    if kind == "serial":
        port, _, baud = rest.partition("@")
        if baud and not baud.isdecimal():
            raise SetupError(f"{written!r}: {baud!r} is no speed; write it in bits a second, such as @115200")
        found |= {"port": port, **({"baud": int(baud)} if baud else {}), "channels": list(channels)}
    elif kind == "iio":
        found |= {"device": rest, "channels": iio_channels(root, rest) or list(channels)}
    elif kind == "csv":
        found |= {"path": str(Path(rest).absolute())}
    return found


def iio_channels(root: Path, device: str) -> list[str]:
    """The channels of an industrial I/O device, by its name or folder."""
    for folder in sorted((root / "sys/bus/iio/devices").glob("iio:device*")):
        if device in (folder.name, read(folder / "name")):
            names = [match[1] for path in folder.iterdir() if (match := _CHANNEL.fullmatch(path.name))]
            return sorted(dict.fromkeys(names))
    return []


def _names(kind: str) -> Iterator[str]:
    yield kind
    number_ = 2
    while True:
        yield f"{kind}{number_}"
        number_ += 1


def _serial(root: Path) -> list[Found]:
    """By the name that stays when it is plugged in again, where there is one."""
    dev = root / "dev"
    stable = {
        path.resolve().name: f"/dev/serial/by-id/{path.name}"
        for path in sorted((dev / "serial/by-id").glob("*"))
    }
    found = []
    for pattern in ("ttyUSB*", "ttyACM*", "ttyAMA*", "ttyTHS*", "ttymxc*", "ttyS*"):
        for path in sorted(dev.glob(pattern)):
            # The kernel makes ttyS0 to ttyS31 whether there are chips or not: those without are of type 0.
            if path.name.startswith("ttyS") and not number(root / "sys/class/tty" / path.name / "type"):
                continue
            port = stable.get(path.name, f"/dev/{path.name}")
            found.append(Found(f"serial:{port}", f"serial port {port}"))
    return found


def _iio(root: Path) -> list[Found]:
    found = []
    for folder in sorted((root / "sys/bus/iio/devices").glob("iio:device*")):
        name = read(folder / "name") or folder.name
        channels = ", ".join(iio_channels(root, folder.name)) or "no channels"
        found.append(Found(f"iio:{name}", f"industrial I/O {name} ({channels})"))
    return found
