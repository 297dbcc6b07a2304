"""What the checks look at: this machine, the configuration, and the agent if it runs. Nothing is changed."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marram.control import ControlError, ask
from marram.errors import ConfigError

if TYPE_CHECKING:
    from marram.config.layers import Over
    from marram.config.schema import Agent

UNIT = "marram.service"
_PROPERTIES = (
    "LoadState", "ActiveState", "SubState", "Result", "NRestarts", "User", "SupplementaryGroups", "MemoryMax",
    "MemoryCurrent", "WatchdogUSec", "Type", "DropInPaths", "PrivateDevices", "DevicePolicy", "DeviceAllow",
    "ExecMainStatus", "Environment",
)  # fmt: skip
_PATIENCE = 10.0


@dataclass
class Machine:
    """root: of the file system; tests give a tree of their own, with sys/ and proc/ in it.

    path: the YAML. config: None when it is not valid, and ``problem`` says why. status: what the running
    agent says of itself, None where none answers; ``silence`` says why. unit: properties of the systemd unit,
    empty where there is none. now: Unix seconds. publish: whether test messages may be sent on
    topics of outputs.
    """

    path: Path
    root: Path = Path("/")
    config: Agent | None = None
    problem: str = ""
    status: dict[str, Any] | None = None
    silence: str = ""
    unit: dict[str, str] = field(default_factory=dict)
    now: float = field(default_factory=time.time)
    publish: bool = False

    @property
    def sys(self) -> Path:
        return self.root / "sys"

    @property
    def proc(self) -> Path:
        return self.root / "proc"

    @property
    def state(self) -> Path:
        """The agent's state folder."""
        return self.config.device.state if self.config is not None else Path("/var/lib/marram")


def this_machine(path: Path, publish: bool = False, over: Over | None = None) -> Machine:
    """This machine with the configuration in ``path``. over: what stands above it."""
    from marram.config.load import load
    from marram.config.schema import Agent

    machine = Machine(path, publish=publish, unit=unit_properties())
    try:
        machine.config = load(path, Agent, over=over)
    except ConfigError as error:
        machine.problem = str(error)
        try:
            # The rest can be looked at all the same when only files are missing.
            machine.config = load(path, Agent, over=over, check_files=False)
        except ConfigError:
            machine.silence = "without a valid configuration it is not known where the agent answers"
            return machine
    try:
        machine.status = ask(machine.config.control_socket, {"command": "status"})
    except ControlError as error:
        machine.silence = str(error)
    return machine


def unit_properties(unit: str = UNIT) -> dict[str, str]:
    """What systemd says of the unit; empty where there is no systemd, or no such unit."""
    try:
        done = subprocess.run(
            ["systemctl", "show", unit, f"--property={','.join(_PROPERTIES)}"],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return found if found.get("LoadState") == "loaded" else {}
