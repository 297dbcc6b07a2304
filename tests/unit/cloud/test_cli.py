"""The command line marram-cloud: init, enrol, devices, revoke, rounds; and clear errors."""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys

import pytest
from marram.storage import hold_folder
from marram_cloud.cli import main

from tests.support.windows import SHOULDER


@pytest.fixture
def site(tmp_path, capsys):
    """A fleet and a configuration whose broker is away."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    assert main(["init", str(tmp_path / "fleet"), "--fleet", "dunes", "--region", "north"]) == 0
    (tmp_path / "cloud.yaml").write_text(
        f"bundle: {SHOULDER}\n"
        "state: state\n"
        f"broker: {{url: 'mqtt://127.0.0.1:{port}', identity: fleet/aggregator}}\n"
        "releases:\n"
        "  repository: fleet/repository\n"
        "  keys: fleet/online\n"
        f"  calibration: {SHOULDER.parent / 'calibration.npz'}\n"
    )
    capsys.readouterr()
    return tmp_path


def run(site, *arguments):
    return main([*arguments, "-c", str(site / "cloud.yaml")])


def enrol(site, *names):
    return run(site, "enrol", str(site / "fleet"), *names)


def test_a_round_is_never_given_a_number_that_was_there(site, capsys):
    assert run(site, "skip", "--to", "5") == 1
    assert "no round is open" in capsys.readouterr().err


def test_enrolled_devices_are_listed_and_revoked_ones_marked(site, capsys):
    assert enrol(site, "press-01", "press-02") == 0
    assert (site / "fleet" / "devices" / "press-02" / "device.key").exists()
    assert run(site, "revoke", str(site / "fleet"), "press-02") == 0
    capsys.readouterr()
    assert run(site, "devices") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "press-01" in first
    assert "REVOKED" not in first
    assert "press-02" in second
    assert "REVOKED" in second


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["release", "build"], "no version has been evaluated"),
        (["release", "build", "--parameters", "3"], "version 3"),
    ],
)
def test_what_cannot_be_done_is_said_on_standard_error_with_status_1(site, capsys, arguments, words):
    assert run(site, *arguments) == 1
    out, error = capsys.readouterr()
    assert words in error
    assert out == ""


def test_a_device_that_nobody_knows_cannot_be_revoked_nor_anybody_beside_it(site, capsys):
    enrol(site, "a")
    assert run(site, "revoke", str(site / "fleet"), "a", "nobody") == 1
    assert "there is no device 'nobody': nothing was revoked" in capsys.readouterr().err
    assert run(site, "devices") == 0
    assert "REVOKED" not in capsys.readouterr().out


def test_a_device_is_enrolled_once(site, capsys):
    assert enrol(site, "a") == 0
    assert enrol(site, "a") == 1
    assert "enrolled already" in capsys.readouterr().err


def test_a_name_is_still_free_when_the_ledger_could_not_take_it(site, capsys):
    assert enrol(site, "b") == 0
    with sqlite3.connect(site / "state" / "ledger.db") as ledger:
        ledger.execute(
            "CREATE TRIGGER broken BEFORE INSERT ON devices BEGIN INSERT INTO gone VALUES (1); END"
        )
    assert enrol(site, "a") == 1
    assert "could not be written" in capsys.readouterr().err
    assert [path.name for path in (site / "fleet" / "devices").iterdir()] == ["b"]
    with sqlite3.connect(site / "state" / "ledger.db") as ledger:
        ledger.execute("DROP TRIGGER broken")
    assert enrol(site, "a") == 0
    assert (site / "fleet" / "devices" / "a" / "device.key").exists()


def test_a_new_ledger_takes_down_the_devices_that_have_their_files(site, capsys):
    assert enrol(site, "a") == 0
    certificate = (site / "fleet" / "devices" / "a" / "device.crt").read_bytes()
    shutil.rmtree(site / "state")
    assert enrol(site, "a", "b") == 0
    assert "a: has its files already" in capsys.readouterr().out
    assert (site / "fleet" / "devices" / "a" / "device.crt").read_bytes() == certificate
    assert run(site, "devices") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]
    assert enrol(site, "a") == 1  # now it is known


@pytest.mark.parametrize(
    ("fleet", "region", "words"),
    [
        ("hills", "north", "fleet 'hills', region 'north', but the configured aggregator"),
        ("dunes", "south", "region 'south', but the configured aggregator"),
        ("dunes", "north", "has another authority"),
    ],
)
def test_a_fleets_folder_that_is_not_the_aggregators_is_refused(site, capsys, fleet, region, words):
    other = str(site / "other")
    assert main(["init", other, "--fleet", fleet, "--region", region]) == 0
    assert run(site, "enrol", other, "a") == 1
    assert words in capsys.readouterr().err
    assert not (site / "other" / "devices").exists()
    assert run(site, "devices") == 0
    assert capsys.readouterr().out == ""


def test_a_fleet_is_made_once(site, capsys):
    assert main(["init", str(site / "fleet"), "--fleet", "dunes"]) == 1
    assert "exists already" in capsys.readouterr().err


def test_the_rounds_of_a_new_aggregator_are_none(site, capsys):
    assert run(site, "rounds", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"rounds": [], "refused": {}}
    assert run(site, "rounds") == 0
    assert "refused: nothing" in capsys.readouterr().out


def test_a_configuration_with_mistakes_is_refused_with_their_places(site, capsys):
    (site / "cloud.yaml").write_text("bundle: nowhere\nstat: x\n")
    assert run(site, "devices") == 1
    error = capsys.readouterr().err
    assert "cloud.yaml:1:9" in error
    assert "cloud.yaml:2:1" in error
    assert "Traceback" not in error


def test_as_a_real_process_it_ends_with_status_1_and_no_traceback(site):
    command = [sys.executable, "-m", "marram_cloud.cli", "revoke", str(site / "fleet"), "nobody"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("there is no device 'nobody'")
    assert "Traceback" not in done.stderr


def test_a_second_aggregator_on_the_same_ledger_is_refused(site, capsys):
    with hold_folder(site / "state", "aggregator"):
        assert run(site, "run") == 1
    assert "another aggregator uses this state folder" in capsys.readouterr().err


def test_the_aggregator_refuses_to_run_with_a_devices_identity(site, capsys):
    enrol(site, "a")
    text = (site / "cloud.yaml").read_text().replace("fleet/aggregator", "fleet/devices/a")
    (site / "cloud.yaml").write_text(text)
    assert run(site, "run") == 1
    assert "identity of a device; a aggregator's is needed" in capsys.readouterr().err.replace(
        "an agg", "a agg"
    )
