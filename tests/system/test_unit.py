"""The agent's unit on a machine: what goes wrong there, and what it does about it."""

import json
import re

import yaml

from tests.support.processes import eventually
from tests.system.agent import CONFIG, configure, goes_on, predictions, recording, status, tree
from tests.system.machine import Machine
from tests.system.marks import full

STATE = "/var/lib/marram"
LEARNING = {"store": {"commit_every": 1}, "governor": {"max_cpu": 100, "min_free_memory": 0}}
_PRIVATE = re.compile(r"/(var/)?tmp/systemd-private-[^/]+(/tmp)?")
OFTEN = {"after": 40, "every": 2, "epochs": 1}


def trainings(machine: Machine) -> int:
    """Trainings that ended well: each brings new parameters."""
    return int(status(machine)["model"]["swaps"])


def trainers_cgroup(machine: Machine) -> str:
    """Where the process that trains now is; "" when none does."""
    process = status(machine)["training"]["running"]
    return machine.run("cat", f"/proc/{process}/cgroup", check=False) if process else ""


def test_it_starts_at_boot_without_a_network_and_learns_what_is_normal(machine: Machine) -> None:
    assert machine.run("ip", "-brief", "link", "show", "up").split()[0] == "lo"
    eventually("the agent is READY", machine.active)
    eventually("it makes windows", lambda: status(machine)["store"]["windows"] >= 1)
    assert "no network" not in machine.journal()


def test_it_infers_on_a_recording_and_trains_beside_it_in_a_slice_of_its_own(machine: Machine) -> None:
    configure(machine, recording(machine, 100, learning={**LEARNING, "schedule": OFTEN}))
    goes_on(machine, 100)
    last = predictions(machine)[-1]
    assert last["label"] in last["scores"]
    eventually("a training has ended well", lambda: trainings(machine) >= 1)
    settings = recording(machine, 100, learning={**LEARNING, "schedule": {**OFTEN, "epochs": 100}})
    configure(machine, settings)
    eventually("a trainer is in that slice", lambda: "/marram-work.slice/" in trainers_cgroup(machine))


def test_killed_it_comes_back_with_what_it_knew(machine: Machine) -> None:
    configure(machine, recording(machine, 50, learning=LEARNING))
    eventually("windows are stored", lambda: status(machine)["store"]["windows"] >= 100)
    machine.file(f"{STATE}/mine").write_text("kept")
    kept, process = status(machine)["store"]["windows"], machine.main_pid()
    machine.kill()
    eventually("it runs again", lambda: machine.active() and machine.main_pid() not in (0, process))
    assert machine.restarts() == 1
    # What came since the last write is lost; it writes each second.
    assert status(machine)["store"]["windows"] >= kept - 100
    goes_on(machine)


@full
def test_failing_again_and_again_it_pauses_and_goes_on_once_it_can(machine: Machine) -> None:
    machine.drop_in("marram.service", "[Service]\nRestartSec=100ms\n")
    machine.drop_in("marram-retry.timer", "[Timer]\nOnActiveSec=\nOnActiveSec=4s\nAccuracySec=100ms\n")
    settings = recording(machine)
    machine.file(CONFIG).write_text("sensors: [oops\n")
    machine.run("systemctl", "restart", "marram", check=False)
    eventually("it pauses", lambda: "repeated too quickly" in machine.journal())
    assert not machine.active()
    machine.file(CONFIG).write_text(yaml.safe_dump(settings))
    eventually("it was started again", machine.active)
    goes_on(machine)


@full
def test_hanging_it_is_killed_by_the_watchdog_and_started_anew(machine: Machine) -> None:
    """Nobody reads what it prints: the write blocks, and with it the inference stage."""
    machine.run("mkfifo", "/run/hang")
    machine.run("systemd-run", "--unit=reader", "sh", "-c", "exec sleep infinity 3<>/run/hang")
    machine.drop_in(
        "marram.service", "[Service]\nStandardOutput=file:/run/hang\nStandardError=journal\nWatchdogSec=4s\n"
    )
    settings = recording(machine)
    configure(machine, {**settings, "outputs": [{"type": "stdout"}, *settings["outputs"]]})
    process = machine.main_pid()
    machine.drop_in("marram.service", "[Service]\nStandardOutput=null\n", "then")
    eventually("the watchdog has ended it", lambda: machine.main_pid() != process, 120)
    eventually("it runs again", lambda: machine.active() and machine.main_pid() not in (0, process))
    assert "no progress for" in machine.journal()
    assert "Watchdog timeout" in machine.journal()
    goes_on(machine)


def test_a_trainer_that_takes_too_much_is_killed_alone(machine: Machine) -> None:
    machine.drop_in("marram-work@.service", "[Service]\nMemoryMax=12M\n")
    configure(machine, recording(machine, 100, learning={**LEARNING, "schedule": OFTEN}))
    process = machine.main_pid()
    eventually("the trainer was killed", lambda: "status=9/KILL" in machine.journal("marram-work@*"))
    goes_on(machine, 100)
    assert machine.main_pid() == process
    assert machine.restarts() == 0
    assert status(machine)["windows"]["dropped"] == 0
    assert trainings(machine) == 0


@full
def test_training_goes_on_once_it_has_memory_enough(machine: Machine) -> None:
    machine.drop_in("marram-work@.service", "[Service]\nMemoryMax=12M\n")
    configure(machine, recording(machine, 100, learning={**LEARNING, "schedule": OFTEN}))
    process = machine.main_pid()
    eventually("the trainer was killed", lambda: "status=9/KILL" in machine.journal("marram-work@*"))
    machine.drop_in("marram-work@.service", "[Service]\nMemoryMax=768M\n", "then")
    eventually("a training has ended well", lambda: trainings(machine) >= 1, 120)
    assert machine.main_pid() == process


def test_on_a_full_disk_inference_goes_on_and_what_is_lost_is_said(machine: Machine) -> None:
    machine.run("systemctl", "stop", "marram")
    machine.run("mount", "-t", "tmpfs", "-o", "size=3M,mode=750,uid=marram,gid=marram", "tmpfs", STATE)
    configure(machine, recording(machine, 100, learning=LEARNING))
    process = machine.main_pid()
    machine.run("sh", "-c", f"dd if=/dev/zero of={STATE}/filler bs=64k 2>/dev/null || true")
    eventually("an output failed", lambda: status(machine)["outputs"]["0-jsonl"]["errors"] > 0)
    eventually("the store says it", lambda: status(machine)["store"]["error"])
    goes_on(machine, 200)
    assert machine.main_pid() == process
    assert "No space left" in machine.journal()
    machine.file(f"{STATE}/filler").unlink()
    eventually("the store goes on", lambda: not status(machine)["store"]["error"])
    end = len(predictions(machine))
    eventually("predictions are written again", lambda: len(predictions(machine)) != end)
    assert machine.main_pid() == process
    for line in machine.file(f"{STATE}/predictions.jsonl").read_text().splitlines():
        json.loads(line)  # no half lines


@full
def test_in_1970_it_starts_and_infers(machine: Machine) -> None:
    (library,) = machine.file("/usr/lib").glob("*/faketime/libfaketime.so.1")
    place = library.relative_to(machine.file("/"))
    environment = f"LD_PRELOAD=/{place} FAKETIME_DONT_FAKE_MONOTONIC=1"
    for unit in ("marram.service", "marram-work@.service"):
        machine.drop_in(unit, f'[Service]\nEnvironment={environment} "FAKETIME=@1970-01-01 00:00:10"\n')
    configure(machine, recording(machine, 100, learning={**LEARNING, "schedule": OFTEN}))
    goes_on(machine, 100)
    assert "no-clock" in status(machine)["modes"]
    eventually("a training has ended well", lambda: trainings(machine) >= 1)
    # The clock is set right, as by NTP.
    for unit in ("marram.service", "marram-work@.service"):
        machine.drop_in(unit, "[Service]\nUnsetEnvironment=LD_PRELOAD\n", "then")
    machine.run("systemctl", "restart", "marram")
    goes_on(machine, 100)


def test_onnxruntime_writes_no_file_of_its_own_and_calls_nobody(machine: Machine) -> None:
    """Without the variable in the units 1.32 writes a device id and a data base below its home folder."""
    # Every address is this machine's: whatever tries to reach anybody is counted.
    machine.run("ip", "route", "add", "local", "default", "dev", "lo")
    machine.file("/etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    configure(machine, recording(machine, 100, learning={**LEARNING, "schedule": OFTEN}))
    before, sent = tree(machine, "/root", "/home", "/tmp", "/var"), _sent(machine)
    goes_on(machine, 100)
    eventually("a training has ended well", lambda: trainings(machine) >= 1)
    appeared = tree(machine, "/root", "/home", "/tmp", "/var") - before
    # A child that runs has private temporary folders, which systemd makes: only what is in them counts.
    files = {path for path in appeared if not _PRIVATE.fullmatch(path)}
    assert not [path for path in files if not path.startswith((f"{STATE}/", "/var/log/"))]
    assert not [path for path in tree(machine, STATE) if "onnx" in path.lower() or "/." in path]
    assert _sent(machine) == sent


def _sent(machine: Machine) -> tuple[int, int]:
    """Connections that anybody tried to open, and datagrams that were sent, since the machine's boot."""
    lines = [line.split() for line in machine.run("cat", "/proc/net/snmp").splitlines()]
    counted = {
        names[0]: dict(zip(names, values, strict=True))
        for names, values in zip(lines[::2], lines[1::2], strict=True)
    }
    return int(counted["Tcp:"]["ActiveOpens"]), int(counted["Udp:"]["OutDatagrams"])


def test_a_changed_configuration_is_taken_or_refused_while_it_runs(machine: Machine) -> None:
    settings = recording(machine, 100, learning=LEARNING)
    configure(machine, settings)
    goes_on(machine)
    process, config = machine.main_pid(), machine.file(CONFIG)
    other = {"type": "jsonl", "path": f"{STATE}/other.jsonl"}
    good = yaml.safe_dump({**settings, "outputs": [*settings["outputs"], other]})
    config.write_text(good)
    machine.run("systemctl", "reload", "marram")
    eventually("the new output is written", lambda: machine.file(f"{STATE}/other.jsonl").read_text())

    for bad in ("sensors: [oops\n", good.replace("speed: 100", "speed: fast")):
        config.write_text(bad)
        assert machine.ran("systemctl", "reload", "marram").returncode != 0
        eventually("its log says where the mistake is", lambda: f"{CONFIG}:" in machine.journal())
        assert "predicted" in machine.run("marram", "status"), "it can be asked all the same"
        goes_on(machine)
    assert machine.active()
    assert machine.main_pid() == process
    windows = status(machine)["windows"]
    assert windows["dropped"] == windows["failed"] == 0
    assert windows["predicted"] == windows["received"] - windows["waiting"]
