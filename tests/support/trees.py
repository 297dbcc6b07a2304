"""Small trees of /sys, /proc and /dev for what reads the machine."""

from __future__ import annotations

from pathlib import Path


def write(root: Path, files: dict[str, str]) -> Path:
    """Write files below a root, with their folders; ``root`` again."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def zone(number: int, kind: str, degrees: float, **trips: float) -> dict[str, str]:
    """A thermal zone. trips: by kind ("passive", "critical"), degrees Celsius."""
    folder = f"sys/class/thermal/thermal_zone{number}"
    files = {f"{folder}/type": kind, f"{folder}/temp": str(round(degrees * 1000))}
    for index, (trip, limit) in enumerate(trips.items()):
        files[f"{folder}/trip_point_{index}_type"] = trip
        files[f"{folder}/trip_point_{index}_temp"] = str(round(limit * 1000))
    return files


def cooling(number: int, kind: str, state: int, most: int) -> dict[str, str]:
    folder = f"sys/class/thermal/cooling_device{number}"
    return {f"{folder}/type": kind, f"{folder}/cur_state": str(state), f"{folder}/max_state": str(most)}


def supply(weak: bool) -> dict[str, str]:
    """A Raspberry Pi's own measurement of its supply."""
    folder = "sys/class/hwmon/hwmon2"
    return {f"{folder}/name": "rpi_volt", f"{folder}/in0_lcrit_alarm": str(int(weak))}
