"""What goes into the archive, by the name of its file. A part that cannot be had says why in its place."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from marram import __version__
from marram.config.layers import Over
from marram.diag import redact
from marram.doctor.examine import builtins, examine
from marram.doctor.machine import UNIT, Machine
from marram.errors import MarramError

_LINES = 5000
_PATIENCE = 20.0
_SYSTEM = ("proc/meminfo", "proc/loadavg", "proc/uptime", "proc/mounts", "proc/version", "etc/os-release",
           "proc/device-tree/model", "sys/class/dmi/id/product_name")  # fmt: skip
_CPU = ("model name", "flags", "Features", "Model", "CPU part", "CPU implementer")
_UNIT = ("Environment",)  # may hold what nobody else should see


def collect(machine: Machine, over: Over) -> dict[str, bytes]:
    """Name to content of every file."""
    parts: dict[str, Callable[[], str]] = {
        "versions.txt": _versions,
        "configuration.yaml": lambda: _configuration(machine, over),
        "doctor.json": lambda: _json(builtins(examine(machine))),
        "status.json": lambda: _json(_status(machine)),
        "releases.json": lambda: _releases(machine),
        "unit.txt": lambda: _unit(machine),
        "system.txt": lambda: _system(machine.root),
        "files.txt": lambda: "".join(_files(machine.state)),
        "journal.txt": _journal,
    }
    return {name: _part(make).encode() for name, make in parts.items()}


def _part(make: Callable[[], str]) -> str:
    try:
        return redact.text(make())
    except Exception as error:
        return redact.text(f"could not be had: {type(error).__name__}: {error}\n")


def _json(value: object) -> str:
    return json.dumps(redact.tree(value), indent=1) + "\n"


def _versions() -> str:
    lines = [
        f"marram {__version__}",
        f"python {sys.version}",
        f"kernel {platform.release()} {platform.machine()}",
    ]
    lines += sorted(f"{one.name} {one.version}" for one in distributions())
    return "\n".join(lines) + "\n"


def _configuration(machine: Machine, over: Over) -> str:
    """The effective one, with where each value comes from; comments of the files are not in it."""
    from marram.config.load import load_all
    from marram.config.schema import Agent
    from marram.config.show import show

    try:
        return show(load_all(machine.path, Agent, over=over, check_files=False), origins=True)
    except MarramError as error:
        return f"# not valid:\n{error}\n"


def _status(machine: Machine) -> Any:  # noqa: ANN401  (any JSON)
    """Without what was measured: the last prediction, and the first message that did not fit."""
    if machine.status is None:
        return {"not running": machine.silence}
    status = {name: value for name, value in machine.status.items() if name != "last"}
    status["sensors"] = {
        name: {key: value for key, value in sensor.items() if key != "first_malformed"}
        for name, sensor in status["sensors"].items()
    }
    return status


def _releases(machine: Machine) -> str:
    """The release state as it is on the disk, running or not."""
    import msgspec

    from marram.releases import state as states

    state = states.peek(machine.state / "releases" / "state.json")
    return _json(msgspec.to_builtins(state) if state is not None else None)


def _unit(machine: Machine) -> str:
    shown = [f"{name}={value}" for name, value in sorted(machine.unit.items()) if name not in _UNIT]
    return "\n".join(shown or ["systemd knows no such unit"]) + "\n"


def _system(root: Path) -> str:
    parts = [f"time {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}\n"]
    for name in _SYSTEM:
        try:
            parts.append(f"---- /{name}\n{(root / name).read_text(errors='replace').strip(chr(0))}\n")
        except OSError:
            continue
    try:
        lines = (root / "proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    kept = dict.fromkeys(line for line in lines if line.partition(":")[0].strip() in _CPU)
    return "".join([*parts, "---- /proc/cpuinfo\n", *(f"{line}\n" for line in kept)])


def _files(folder: Path) -> Iterator[str]:
    """Names, sizes and ages of what is in the state folder; nothing of what is in the files."""
    now = time.time()
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        age, owner = (now - about.st_mtime) / 3600, f"{about.st_uid}:{about.st_gid}"
        yield f"{about.st_size:>12} {oct(about.st_mode)[-4:]} {owner} {age:8.1f} h  {path}\n"


def _journal() -> str:
    """The unit's last lines. What the agent printed as predictions, and messages of sensors, are left out."""
    command = ["journalctl", "-u", UNIT, "-n", str(_LINES), "-o", "json", "--no-pager"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    if done.returncode:
        return f"journalctl: {done.stderr.strip()}\n"
    return "".join(line for entry in done.stdout.splitlines() if (line := journal_line(entry)))


def journal_line(entry: str) -> str:
    """One entry of ``journalctl -o json`` as a line, "" when it may hold what was measured."""
    try:
        fields = json.loads(entry)
        message, moment = fields["MESSAGE"], int(fields["__REALTIME_TIMESTAMP"]) / 1e6
    except (ValueError, KeyError, TypeError):
        return ""
    if not isinstance(message, str):
        return ""
    if "LOGGER" not in fields and message.lstrip().startswith(("{", "[")):
        return ""
    message = message.partition(", the first: ")[0]
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
    return f"{when} <{fields.get('PRIORITY', '6')}> {fields.get('SYSLOG_IDENTIFIER', '')}: {message}\n"


def default_name(machine: Machine) -> Path:
    """Where the archive goes when nothing else is asked for."""
    device = (
        machine.config.device.name if machine.config is not None else platform.node() or os.uname().nodename
    )
    return Path(f"marram-diag-{device}-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
