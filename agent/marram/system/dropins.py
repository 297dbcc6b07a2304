"""What the systemd units must open for a configuration, as drop-ins (systemd.unit(5)).

The units as they are installed open no device. From the YAML comes just what its sensors, outputs and keys
need: a device's class and group, a folder to write to, a credential, the memory of the children.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from marram.config.schema import Agent, Learning
from marram.sensors.sensor import SensorConfig
from marram.system.devices import Need, needs

_HEAD = "# Written by `marram system dropins --write`; write it again when the YAML changes.\n[Service]\n"
_STATE = Path("/var/lib/marram")
_TPM = "/dev/tpmrm0"
# Beyond what is asked for the work itself: the interpreter and the runtime.
_OVERHEAD = 256 << 20


def dropins(config: Agent, needs: Callable[[str], list[Need]] = needs) -> dict[str, str]:
    """The text of each unit's drop-in, "" where it needs none. needs: of a device file."""
    keys = [*_credentials(config), *_folders(config)]
    tpm = [_TPM] if config.cloud is not None and (config.cloud.key or "").startswith("pkcs11:") else []
    devices = [path for sensor in config.sensors for path in sensor_devices(sensor, config)]
    memory = max((config.learning or Learning()).trainer.memory, config.releases.memory) + _OVERHEAD
    texts = {
        "marram.service": [*_devices([*devices, *tpm], needs), *keys, *_memory(config)],
        "marram-work@.service": [*keys, f"MemoryMax={memory}"],
    }
    return {unit: _HEAD + "\n".join(lines) + "\n" if lines else "" for unit, lines in texts.items()}


def sensor_devices(sensor: SensorConfig, config: Agent) -> Iterator[str]:
    """Device files that a sensor opens. (Industrial I/O is read below /sys, which needs nothing.)"""
    for key, kind in sensor.on_board.items():
        if kind != "iio":
            yield config.board.path(kind, getattr(sensor, key))


def _devices(paths: list[str], needs: Callable[[str], list[Need]]) -> Iterator[str]:
    wanted = [need for path in paths for need in needs(path)]
    if not wanted:
        return
    # A private /dev holds none of them; the list of what may be opened stays closed.
    yield "PrivateDevices=no"
    yield from (f"DeviceAllow={allow} rw" for allow in dict.fromkeys(need.allow for need in wanted))
    groups = dict.fromkeys(need.group for need in wanted if need.group)
    if groups:
        yield f"SupplementaryGroups={' '.join(groups)}"


def _folders(config: Agent) -> Iterator[str]:
    written = [config.device.state]
    for output in config.outputs:
        path = getattr(output, "path", None)
        if isinstance(path, Path):
            written.append(path.parent)
    yield from dict.fromkeys(
        f"ReadWritePaths={folder}" for folder in written if not folder.is_relative_to(_STATE)
    )
    read = [config.model.bundle, config.model.file, *(getattr(one, "path", None) for one in config.sensors)]
    if any(isinstance(path, Path) and path.parts[1:2] in (("home",), ("root",)) for path in read):
        yield "ProtectHome=read-only"


def _credentials(config: Agent) -> Iterator[str]:
    kind, _, name = (config.cloud.key or "").partition(":") if config.cloud is not None else ("", "", "")
    if kind == "credential":
        yield f"LoadCredentialEncrypted={name}:/etc/credstore.encrypted/marram.{name}"


def _memory(config: Agent) -> Iterator[str]:
    if config.board.memory is not None:
        yield f"MemoryHigh={config.board.memory * 3 // 4}"
        yield f"MemoryMax={config.board.memory}"
