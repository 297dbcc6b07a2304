"""What the doctor says of the agent, its files, its unit and its sensors' devices."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from marram.config.load import load
from marram.config.schema import Agent
from marram.doctor.checks import devices
from marram.doctor.checks.devices import User
from marram.doctor.finding import Severity
from marram.learning import journal
from marram.storage import open_database
from marram_cloud.enrolment.files import FleetFolder

from tests.support import trees
from tests.support.configs import SHOULDER_BUNDLE
from tests.unit.doctor.test_machine_checks import found, machine, severities

OK, NOTE, WARNING, ERROR = Severity
DAY = 86400.0


# ---- configuration and agent


def test_a_configuration_with_mistakes_is_shown_with_its_places(tmp_path):
    finding = found("configuration", machine(tmp_path, problem="marram.yaml:3:5: model: nonsense"))[0]
    assert finding.severity is ERROR
    assert "marram.yaml:3:5" in finding.found


def status(**windows):
    counts = {"received": 10, "failed": 0, "dropped": 0} | windows
    return {"uptime": 5, "pid": 7, "windows": counts, "sensors": {}, "outputs": {}}


def test_what_the_running_agent_complains_of_is_repeated(tmp_path):
    said = status(failed=3, dropped=2)
    said["sensors"] = {"a": {"error": "gone"}, "b": {"error": None}}
    said["outputs"] = {"0-jsonl": {"errors": 1, "unsent": 0}, "1-mqtt": {"errors": 0, "unsent": 0}}
    assert severities(found("agent", machine(tmp_path, status=said))) == [OK, ERROR, WARNING, ERROR, WARNING]
    assert severities(found("agent", machine(tmp_path, status=status()))) == [OK]


def test_an_agent_that_does_not_run_is_a_note_and_one_that_fails_an_error(tmp_path):
    one = machine(tmp_path, silence="no daemon answers here")
    assert severities(found("agent", one)) == [NOTE]
    one.unit = {
        "ActiveState": "activating",
        "SubState": "auto-restart",
        "NRestarts": "12",
        "Result": "exit-code",
    }
    [finding] = found("agent", one)
    assert finding.severity is ERROR
    assert "12 restarts" in finding.found


# ---- outbox


def outbox(folder, rounds):
    database = open_database(folder / "state/journal.db", journal.SCHEMA)
    for number in rounds:
        database.execute(
            "INSERT INTO outbox (digest, round, chain, seed, payload, sealed) VALUES (?, ?, '', 0, '', '')",
            (str(number), number),
        )
    return database


@pytest.mark.parametrize("running", [True, False])
def test_the_outbox_is_read_without_touching_the_journal(tmp_path, running):
    database = outbox(tmp_path, [17])
    if not running:
        database.close()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "state").iterdir()}
    [finding] = found("outbox", machine(tmp_path))
    assert finding.severity is OK
    assert "round 17" in finding.found
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "state").iterdir()} == before


def test_a_delta_that_has_waited_for_days_is_a_warning(tmp_path):
    outbox(tmp_path, [3]).close()
    one = machine(tmp_path)
    one.now = (tmp_path / "state/journal.db").stat().st_mtime + 3 * DAY
    assert severities(found("outbox", one)) == [WARNING]


def test_no_journal_and_a_damaged_one(tmp_path):
    assert found("outbox", machine(tmp_path)) == []
    (tmp_path / "state").mkdir()
    (tmp_path / "state/journal.db").write_bytes(b"not a database at all" * 100)
    assert severities(found("outbox", machine(tmp_path))) == [ERROR]


# ---- identity


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    folder = FleetFolder.create(tmp_path_factory.mktemp("fleet") / "fleet", "dunes", "north")
    folder.enrol("one")
    return folder


def cloud(folder, fleet, name="one", broker="mqtt://127.0.0.1:1"):
    return machine(folder, f"cloud: {{identity: {fleet.path}/devices/{name}, broker: {broker}}}\n")


def test_the_certificate_is_judged_by_its_dates(tmp_path, fleet):
    one = cloud(tmp_path, fleet)
    assert severities(found("identity", one))[0] is OK
    for days, severity in ((725, WARNING), (800, ERROR), (-30, ERROR)):
        later = replace(one, now=one.now + days * DAY)
        assert severities(found("identity", later))[0] is severity, days


def test_an_identity_that_is_broken_says_how_to_get_another(tmp_path, fleet):
    one = cloud(tmp_path, fleet)
    (fleet.path / "devices/one").rename(fleet.path / "devices/away")
    try:
        (fleet.path / "devices/one").mkdir()
        [finding] = found("identity", one)
    finally:
        (fleet.path / "devices/one").rmdir()
        (fleet.path / "devices/away").rename(fleet.path / "devices/one")
    assert finding.severity is ERROR
    assert "marram enrol" in finding.todo


def test_a_device_without_a_cloud_has_no_identity_to_look_at(tmp_path):
    assert found("identity", machine(tmp_path)) == []


# ---- releases

RELEASE = '{"target":"m/2.marram","version":"2","kind":"marram","sequence":2,"sha256":"%s","size":3}'


def test_a_slot_with_another_file_and_refused_and_held_releases_are_found(tmp_path):
    folder = tmp_path / "state/releases"
    refused = '{"sha256":"ab","target":"m/3.marram","reason":"slow","agent":"1","configured":""}'
    trees.write(folder, {"a": "xyz", "hold": "on holiday"})
    (folder / "state.json").write_text(
        f'{{"committed":{{"release":{RELEASE % "00"},"slot":"a","configured":""}},"refused":[{refused}]}}'
    )
    one = machine(tmp_path, status={"release": {"problem": "no answer", "checked": 1.0}})
    findings = found("releases", one)
    assert severities(findings) == [ERROR, NOTE, NOTE, WARNING, WARNING]
    assert "m/3.marram: slow" in findings[1].found
    assert "on holiday" in findings[2].found


def test_no_releases_yet_and_a_damaged_state(tmp_path):
    assert found("releases", machine(tmp_path)) == []
    trees.write(tmp_path, {"state/releases/state.json": "{"})
    assert severities(found("releases", machine(tmp_path))) == [WARNING]


# ---- unit

FINE = {
    "LoadState": "loaded",
    "Type": "notify",
    "WatchdogUSec": "2min",
    "NRestarts": "0",
    "MemoryMax": "536870912",
}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, [OK]),
        ({"MemoryMax": "infinity"}, [OK]),
        ({"MemoryMax": str(90 << 20)}, [WARNING]),
        ({"WatchdogUSec": "0", "Type": "simple"}, [OK, WARNING, WARNING]),
        ({"NRestarts": "3"}, [OK, WARNING]),
    ],
)
def test_the_units_limits_are_held_against_the_need(tmp_path, changes, wanted):
    findings = found("unit", machine(tmp_path, unit=FINE | changes))
    assert severities(findings) == [*wanted, NOTE]  # it is not the file in /etc


def test_a_limit_below_what_a_child_may_take_matters_only_where_children_share_it(tmp_path):
    more = "learning: {trainer: {memory: 700MiB}}\n"
    assert severities(found("unit", machine(tmp_path, more, unit=FINE)))[0] is NOTE
    apart = FINE | {"Environment": "A=b MARRAM_WORK=/run/marram-work.sock"}
    assert severities(found("unit", machine(tmp_path, more, unit=apart)))[0] is OK


def test_no_unit_is_a_note(tmp_path):
    assert severities(found("unit", machine(tmp_path))) == [NOTE]


# ---- devices

NOBODY = User("nobody", 65534, frozenset({65534}))


def looked(root, monkeypatch, sensor, board="", user=NOBODY, unit=None):
    path = root / "devices.yaml"
    path.write_text(
        f"sensors: [{sensor}]\n{board}model: {{bundle: {SHOULDER_BUNDLE}}}\ndevice: {{state: state}}\n"
    )
    one = machine(root, unit=unit or {})
    one.config = load(path, Agent)
    monkeypatch.setattr(devices, "service_user", lambda machine: user)
    return found("devices", one)


def sensor(port):
    return f"{{type: serial, name: scale, port: {port}, channels: [x]}}"


@pytest.fixture
def pty():
    ours, theirs = os.openpty()
    yield Path(os.ttyname(theirs))
    os.close(ours)
    os.close(theirs)


def test_a_device_that_the_services_user_may_open_is_fine_and_another_names_its_group(
    monkeypatch, tmp_path, pty
):
    pty.chmod(0o666)
    assert severities(looked(tmp_path, monkeypatch, sensor(pty))) == [OK]
    pty.chmod(0o660)
    [finding] = looked(tmp_path, monkeypatch, sensor(pty))
    assert finding.severity is ERROR
    assert "may not be opened by nobody" in finding.found
    assert "marram system dropins" in finding.todo
    gid = pty.stat().st_gid
    assert severities(
        looked(tmp_path, monkeypatch, sensor(pty), user=User("marram", 5, frozenset({gid})))
    ) == [OK]


def test_a_name_of_the_boards_stands_for_its_path(monkeypatch, tmp_path, pty):
    pty.chmod(0o666)
    [finding] = looked(tmp_path, monkeypatch, sensor("header"), f"board: {{serial: {{header: {pty}}}}}\n")
    assert finding.severity is OK
    assert str(pty) in finding.found


def test_a_device_that_is_not_there_names_those_that_are(monkeypatch, tmp_path):
    [finding] = looked(tmp_path, monkeypatch, sensor("/dev/nul7"))
    assert (finding.severity, finding.found) == (ERROR, "/dev/nul7 is not there")
    assert "null" in finding.todo


@pytest.mark.parametrize(
    ("unit", "severity"),
    [
        ({"PrivateDevices": "yes"}, WARNING),
        ({"DevicePolicy": "closed"}, WARNING),
        ({"DevicePolicy": "closed", "DeviceAllow": "char-pts rw"}, OK),
        ({"DevicePolicy": "auto"}, OK),
    ],
)
def test_a_device_that_the_unit_closes_needs_a_drop_in(monkeypatch, tmp_path, pty, unit, severity):
    pty.chmod(0o666)
    trees.write(
        tmp_path, {"proc/devices": "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n136 wrong"}
    )
    [finding] = looked(tmp_path, monkeypatch, sensor(pty), unit=unit)
    assert finding.severity is severity


def test_an_industrial_io_device_is_found_by_its_name(monkeypatch, tmp_path):
    folder = "sys/bus/iio/devices/iio:device0"
    trees.write(tmp_path, {f"{folder}/name": "adxl345", f"{folder}/in_accel_x_raw": "1"})
    iio = "{type: iio, name: acc, device: %s, channels: [accel_x]}"
    assert severities(looked(tmp_path, monkeypatch, iio % "adxl345")) == [OK]
    [finding] = looked(tmp_path, monkeypatch, iio % "bmp280")
    assert finding.severity is ERROR
    assert "iio:device0 (adxl345)" in finding.found
    (tmp_path / folder / "in_accel_x_raw").chmod(0o600)
    assert severities(looked(tmp_path, monkeypatch, iio % "adxl345")) == [ERROR]


# ---- model


def test_the_model_is_run_in_a_child(tmp_path):
    [finding] = found("model", machine(tmp_path))
    assert finding.severity is OK
    assert "loads and runs" in finding.found


def test_a_damaged_bundle_and_one_that_crashes_its_runtime_are_found(tmp_path):
    broken = tmp_path / "broken.marram"
    broken.write_bytes(SHOULDER_BUNDLE.read_bytes()[:5000])
    one = machine(tmp_path)
    text = one.path.read_text().replace(str(one.config.model.bundle), str(broken))
    one.path.write_text(text)
    one.config = load(one.path, Agent)
    [finding] = found("model", one)
    assert finding.severity is ERROR
    assert "broken.marram" in finding.name
