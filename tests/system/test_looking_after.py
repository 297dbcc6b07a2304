"""The agent looks after itself under its unit: journal, status, doctor, archive, first start, heat."""

import json
import tarfile
from typing import Any

from tests.support.processes import eventually
from tests.support.trees import zone
from tests.system.agent import configure, goes_on, recording, status
from tests.system.machine import Machine
from tests.system.marks import full


def entries(machine: Machine, *matches: str) -> list[dict[str, Any]]:
    """What the journal holds that matches, with all fields."""
    said = machine.run("journalctl", "--no-pager", "--output", "json", *matches, check=False)
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def heat(machine: Machine, degrees: float) -> None:
    """A thermal zone of this temperature, where the machine has none."""
    for name, content in zone(0, "cpu-thermal", degrees).items():
        there = machine.file(f"/run/heat/{name.removeprefix('sys/class/thermal/')}")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(f"{content}\n")


def doctored(machine: Machine, *checks: str) -> dict[str, dict[str, Any]]:
    """What the doctor finds, by check and name."""
    answer = json.loads(machine.run("marram", "doctor", "--json", *checks, check=False))
    return {f"{one['check']} {one['name']}": one for one in answer["findings"]}


def test_modes_and_errors_are_in_the_journal_with_fields_and_in_the_units_status(machine: Machine) -> None:
    settings = recording(machine, 50, device={"name": "press-07"})
    lost = {"type": "serial", "name": "scale", "port": "/dev/ttyUSB7", "channels": ["other"]}
    sources = {name: {"source": f"watch.{name}"} for name in ("ax", "ay", "az", "wx", "wy", "wz")}
    settings |= {"sensors": [*settings["sensors"], lost], "stream": {"channels": sources}}
    configure(machine, settings)
    eventually("the mode", lambda: "no-sensor" in status(machine)["modes"])
    assert "no-sensor" in machine.show("marram.service", "StatusText")
    [mode, *_] = entries(machine, "MARRAM_MODE=no-sensor")
    assert (mode["PRIORITY"], mode["MARRAM_DEVICE"], mode["SYSLOG_IDENTIFIER"]) == ("4", "press-07", "marram")
    assert mode["_SYSTEMD_UNIT"] == "marram.service"
    errors = entries(machine, "MARRAM_SENSOR=scale", "-p", "err")
    assert 1 <= len(errors) <= 3
    found = doctored(machine, "devices", "agent")
    assert found["devices sensor scale"]["severity"] == "error"
    assert found["agent mode no-sensor"]["severity"] == "warning"
    goes_on(machine)


@full
def test_the_doctor_knows_the_unit_and_finds_nothing_wrong_with_it(machine: Machine) -> None:
    eventually("the agent is READY", machine.active)
    found = doctored(machine)
    wrong = {name for name, one in found.items() if one["severity"] in ("warning", "error")}
    assert wrong <= {"clock synchronisation"}, [found[name] for name in wrong]
    assert "unit marram.service" in found
    machine.run("systemctl", "stop", "marram")
    assert doctored(machine, "agent")["agent agent"]["severity"] == "note"
    machine.run("systemctl", "start", "marram")
    assert machine.active()  # the doctor left nothing that the agent may not open


@full
def test_the_support_archive_has_the_units_journal(machine: Machine) -> None:
    configure(machine, recording(machine, 50))
    goes_on(machine)
    machine.run("marram", "diag", "--yes", "-o", "/root/out.tar.gz")
    with tarfile.open(machine.file("/root/out.tar.gz")) as archive:
        files = {
            name.partition("/")[2]: archive.extractfile(name).read().decode() for name in archive.getnames()
        }
    assert "marram.daemon: ready after" in files["journal.txt"]
    assert "WatchdogUSec=" in files["unit.txt"]
    assert "Environment=" not in files["unit.txt"]


@full
def test_the_first_start_by_setup(machine: Machine) -> None:
    machine.run("systemctl", "stop", "marram")
    said = machine.run("marram", "setup", "--yes", "--replace", "--name", "new-one")
    assert "written and valid" in said
    machine.run("systemctl", "restart", "marram")
    eventually("windows", lambda: status(machine)["windows"]["received"] > 0)
    assert status(machine)["device"] == "new-one"


def warm(machine: Machine, degrees: float) -> None:
    """An agent that trains without end, at this temperature."""
    heat(machine, degrees)
    machine.run("mount", "--bind", "/run/heat", "/sys/class/thermal")
    learning = {
        "store": {"commit_every": 1},
        "governor": {"max_cpu": 100, "min_free_memory": 0},
        "schedule": {"after": 40, "every": 2, "epochs": 1_000_000},
    }
    watch = {"every": "200ms", "training_below": 70, "full_speed_below": 80, "duty": 0.3}
    configure(machine, recording(machine, 50, learning=learning, watch=watch))
    eventually("a training", lambda: status(machine)["training"]["running"])


def state_of(machine: Machine, process: int) -> str:
    """The kernel's letter: R, S, T ..."""
    return machine.run("cat", f"/proc/{process}/stat").rpartition(")")[2].split()[0]


@full
def test_heat_makes_a_training_in_its_own_unit_stand_still_and_inference_go_on(machine: Machine) -> None:
    warm(machine, 40)
    trainer = status(machine)["training"]["running"]
    assert state_of(machine, trainer) != "T"
    heat(machine, 85)
    eventually("it stands still", lambda: state_of(machine, trainer) == "T")
    assert status(machine)["watch"]["duty"] == 0.3
    goes_on(machine)
    heat(machine, 50)
    eventually("it goes on", lambda: state_of(machine, trainer) != "T")
    # One that stands still ends with the daemon too.
    heat(machine, 85)
    eventually("it stands still again", lambda: state_of(machine, trainer) == "T")
    machine.run("systemctl", "stop", "marram")
    eventually("it is gone", lambda: not machine.file(f"/proc/{trainer}").exists())


@full
def test_a_bundle_that_was_damaged_does_not_end_in_a_loop_of_starts(machine: Machine) -> None:
    settings = recording(machine, 50)
    configure(machine, settings)
    goes_on(machine)
    bundle = machine.file(settings["model"]["bundle"])
    bundle.write_bytes(bundle.read_bytes()[:4000])
    machine.run("systemctl", "restart", "marram")
    eventually("the mode", lambda: "broken-model" in status(machine)["modes"])
    goes_on(machine)
    assert machine.restarts() == 0


@full
def test_a_training_that_stands_still_does_not_outlive_a_daemon_that_was_killed(machine: Machine) -> None:
    warm(machine, 40)
    trainer = status(machine)["training"]["running"]
    heat(machine, 85)
    eventually("it stands still", lambda: state_of(machine, trainer) == "T")
    machine.kill()
    eventually("it is gone", lambda: not machine.file(f"/proc/{trainer}").exists())
    eventually("the agent runs again", machine.active)
