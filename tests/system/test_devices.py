"""Devices: the unit opens none, and what `marram system dropins` writes opens just what the YAML names."""

import json
import re

from tests.support.processes import eventually
from tests.system.agent import configure, predictions, recording, status
from tests.system.machine import Machine

_PORT = "/dev/ttyUSB0"
_FEEDER = f"""\
import json, math, os, shutil, time
ours, theirs = os.openpty()
name = os.ttyname(theirs)
shutil.chown(name, "root", "dialout")
os.chmod(name, 0o660)
os.symlink(name, "{_PORT}")
count = 0
while True:
    count += 1
    values = {{axis: math.sin(count / 9) for axis in ("ax", "ay", "az", "wx", "wy", "wz")}}
    os.write(ours, json.dumps(values).encode() + b"\\n")
    time.sleep(0.02)
"""


def exposure(machine: Machine, unit: str) -> float:
    """What systemd says of a unit as it is loaded: 0 (may do nothing) to 10."""
    found = re.search(
        r"Overall exposure level for .*?: ([0-9.]+)", machine.run("systemd-analyze", "security", unit)
    )
    assert found is not None
    return float(found[1])


def serial(machine: Machine) -> dict:
    """The shoulder model on a microcontroller that prints its readings."""
    settings = recording(machine)
    channels = ["ax", "ay", "az", "wx", "wy", "wz"]
    return {**settings, "sensors": [{"type": "serial", "name": "watch", "port": _PORT, "channels": channels}]}


def plug_in(machine: Machine) -> None:
    """A pseudo terminal that looks like a USB adapter."""
    machine.file("/tmp/feeder.py").write_text(_FEEDER)
    machine.run("systemd-run", "--unit=feeder", "-p", "PrivateTmp=no", "python3", "/tmp/feeder.py")
    eventually("the port is there", lambda: machine.ran("test", "-e", _PORT).returncode == 0)


def test_a_serial_port_is_closed_until_the_drop_in_opens_it(machine: Machine) -> None:
    plug_in(machine)
    configure(machine, serial(machine))
    eventually("the sensor says why not", lambda: status(machine)["sensors"]["watch"]["error"])
    machine.run("marram", "system", "dropins", "--write")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "marram")
    eventually("it infers on what the port says", lambda: len(predictions(machine)) >= 3)
    assert status(machine)["sensors"]["watch"]["counters"]["malformed"] <= 1
    assert exposure(machine, "marram.service") <= 2.0


def test_what_the_units_may_do_is_little(machine: Machine) -> None:
    assert exposure(machine, "marram.service") <= 1.5
    assert exposure(machine, "marram-work@1.service") <= 1.5


def test_systemd_finds_nothing_wrong_with_the_units(machine: Machine) -> None:
    units = sorted(path.name for path in machine.file("/usr/lib/systemd/system").glob("marram*"))
    assert "marram.service" in units
    assert machine.run("systemd-analyze", "verify", "--man=no", *units, check=False) == ""


def test_every_shipped_configuration_is_valid_where_it_stands(machine: Machine) -> None:
    folder = "/usr/share/marram/firmware_configs"
    shipped = machine.file(folder)
    boards = [file.stem for file in (shipped / "boards").iterdir()]
    assert boards
    for board in boards:
        machine.file("/etc/marram/tried.yaml").write_text(f"extends: [{board}, ./marram.yaml]\n")
        assert "valid" in machine.run("marram", "check", "-c", "/etc/marram/tried.yaml"), board
    for site in (shipped / "sites").iterdir():
        assert "valid" in machine.run("marram", "check", "-c", f"{folder}/sites/{site.name}")
    assert "valid" in machine.run("marram", "check", "-c", f"{folder}/this-machine.yaml")


def test_the_agents_files_are_for_its_user_only(machine: Machine) -> None:
    eventually("it runs", machine.active)
    open_files = machine.run("find", "/var/lib/marram", "-perm", "/o=rwx")
    assert open_files == ""
    written = machine.run(
        "find", "/opt/marram", "/usr/share/marram", "-newer", "/var/lib/marram", "-user", "marram"
    )
    assert written == ""
    assert json.loads(machine.run("marram", "status", "--json"))["pid"] == machine.main_pid()
