"""The agent on a booted machine: its configuration, and what it says of itself."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.support.processes import eventually
from tests.system.machine import Machine
from tests.system.roots import ROOT

CONFIG = "/etc/marram/marram.yaml"
PREDICTIONS = "/var/lib/marram/predictions.jsonl"
_SHOULDER = ROOT / "examples/shoulder"


def recording(machine: Machine, speed: str | float = "max", **more: Any) -> dict[str, Any]:
    """A configuration that runs the shoulder model on a recording over and over; its files are put there."""
    bundle = machine.put(_SHOULDER / "shoulder.marram", "/etc/marram/shoulder.marram")
    person = machine.put(_SHOULDER / "recordings/person-01.csv.gz", "/etc/marram/person-01.csv.gz")
    sensor = {
        "type": "csv",
        "name": "watch",
        "path": person,
        "speed": speed,
        "repeat": True,
        "label": "exercise",
    }
    output = {"type": "jsonl", "path": PREDICTIONS, "max_bytes": "1MiB", "keep": 1}
    return {"sensors": [sensor], "model": {"bundle": bundle}, "outputs": [output], **more}


def configure(machine: Machine, settings: dict[str, Any]) -> None:
    """Write the YAML and start the agent anew with it; it is READY then."""
    machine.file(CONFIG).write_text(yaml.safe_dump(settings))
    machine.run("systemctl", "restart", "marram")


def status(machine: Machine) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        machine.run("marram", "status", "--json", "--socket", "/var/lib/marram/marram.sock")
    )
    return answer


def predicted(machine: Machine) -> int:
    count: int = status(machine)["windows"]["predicted"]
    return count


def goes_on(machine: Machine, windows: int = 20) -> None:
    """More windows are predicted from now on."""
    before = predicted(machine)
    eventually(f"{windows} more windows", lambda: predicted(machine) >= before + windows)


def predictions(machine: Machine) -> list[dict[str, Any]]:
    """What stands in the file of predictions."""
    return [json.loads(line) for line in machine.file(PREDICTIONS).read_text().splitlines()]


def tree(machine: Machine, *folders: str) -> set[str]:
    """Every path below these folders."""
    found: set[str] = set()
    for folder in folders:
        top = machine.file(folder)
        found |= {f"{folder}/{path.relative_to(top)}" for path in top.rglob("*")} | (
            {folder} if top.exists() else set()
        )
    return found
