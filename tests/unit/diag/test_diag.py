"""The archive for a support ticket: what is in it, and above all what is not."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from marram.control import ControlError, ask
from marram.diag.archive import DiagError, write
from marram.diag.collect import journal_line
from marram.wire.tokens import Token
from marram_cloud.enrolment.files import FleetFolder

from tests.support.cli import marram
from tests.support.configs import SHOULDER_BUNDLE
from tests.support.processes import Process, eventually

PASSWORD, URL_PASSWORD, PIN = "Zq8-planted-password", "planted-in-a-url-77", "31415926"
MARKED = 123.456789  # a value that every sample holds


def forms(secret: bytes) -> set[bytes]:
    """Every form in which bytes may stand in a text: as they are, in hex, and in base64 at each offset."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(shift) + secret).rstrip(b"=")
            found.add(text[(shift * 8 + 5) // 6 + (shift > 0) : -2])
    return {form for form in found if len(form) > 5}


def test_the_search_finds_what_is_planted():
    for shift in range(6):
        hidden = base64.b64encode(bytes(range(shift)) + PASSWORD.encode() + b"tail")
        assert any(form in hidden for form in forms(PASSWORD.encode())), shift


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A device that runs, with secrets and measurements everywhere; the archive's files, and its folder."""
    folder = tmp_path_factory.mktemp("planted")
    fleet = FleetFolder.create(folder / "fleet", "dunes", "north")
    fleet.enrol("one")
    (folder / "password").write_text(f"{PASSWORD}\n")
    recording = folder / "recording.csv"
    rows = [f"{n / 50},{MARKED},{MARKED},{MARKED},{MARKED},{MARKED},{MARKED}" for n in range(4000)]
    recording.write_text("time,ax,ay,az,wx,wy,wz\n" + "\n".join(rows) + "\n")
    config = folder / "marram.yaml"
    config.write_text(
        f"# the password is {PASSWORD}\n"
        "device: {name: one, state: state}\n"
        f"sensors:\n  - {{type: csv, name: tape, path: {recording}, speed: 50, repeat: true}}\n"
        f"  - {{type: mqtt, name: plant, broker: 'mqtt://127.0.0.1:9', topic: x, channels: [extra], "
        "username: press, password_file: password}\n"
        f"model: {{bundle: {SHOULDER_BUNDLE}}}\n"
        "outputs: [{type: jsonl, path: out.jsonl}, {type: stdout}]\n"
        f"cloud: {{identity: {fleet.path}/devices/one, broker: 'mqtts://127.0.0.1:9'}}\n"
        "learning: {store: {commit_every: 200ms}}\n"
    )
    token = str(Token.new(b"x"))
    process = Process("marram.cli", ["run", "-c", str(config)], folder / "agent.log")
    process.start(MARRAM_PLANTED_PASSWORD=URL_PASSWORD)

    def status():
        try:
            return ask(folder / "state/marram.sock", {"command": "status"})
        except ControlError:
            return None

    eventually("windows", lambda: (found := status()) and found["store"]["windows"] and found["last"])
    (folder / "state/token").write_text(token)
    done = marram("diag", "-c", config, "--yes", "-o", folder / "out.tar.gz")
    last = status()["last"]
    process.stop()
    assert done.returncode == 0, done.stderr
    with tarfile.open(folder / "out.tar.gz") as archive:
        files = {Path(one.name).name: archive.extractfile(one).read() for one in archive.getmembers()}
    secrets = {
        "password": PASSWORD.encode(),
        "environment": URL_PASSWORD.encode(),
        "token": token.encode(),
        "key": (fleet.path / "devices/one/device.key").read_bytes().split(b"\n")[1],
        "window": np.full(8, MARKED, "<f4").tobytes(),
        "sample": str(MARKED).encode()[:7],
        "scores": str(max(last["scores"].values())).encode() if last["scores"] else b"none of it",
        "start": f"{last['start']:.4f}".encode()[:12],
    }
    return files, secrets, folder, done.stdout


def test_none_of_the_secrets_and_measurements_is_anywhere_in_the_archive(planted):
    files, secrets, _, _ = planted
    for what, secret in secrets.items():
        for form in forms(secret):
            assert [name for name, content in files.items() if form in content] == [], what


def test_the_search_would_have_found_them(planted):
    """Each is where it was planted."""
    _, secrets, folder, _ = planted
    whole = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for what in ("password", "token", "key", "window", "sample"):
        assert any(form in whole for form in forms(secrets[what])), what


def test_what_is_needed_to_help_is_in_it(planted):
    files, _, folder, said = planted
    assert set(files) == {
        "versions.txt", "configuration.yaml", "doctor.json", "status.json", "releases.json", "unit.txt",
        "system.txt", "files.txt", "journal.txt",
    }  # fmt: skip
    assert json.loads(files["status.json"])["windows"]["predicted"] > 0
    assert b"password_file" in files["configuration.yaml"]
    checks = {one["check"] for one in json.loads(files["doctor.json"])["findings"]}
    assert {"configuration", "broker", "model", "disk"} <= checks
    assert b"windows.db" in files["files.txt"]
    assert b"onnxruntime " in files["versions.txt"]
    assert (folder / "out.tar.gz").stat().st_mode & 0o777 == 0o600
    assert all(name in said for name in files)


def test_a_broken_configuration_is_shown_without_the_secret_on_its_line(tmp_path):
    config = tmp_path / "marram.yaml"
    config.write_text(
        f"sensors:\n  - type: mqtt\n    name: a\n    password: {PASSWORD}\n"
        f"    broker: mqtt://user:{URL_PASSWORD}@host\n"
        f"cloud:\n  identity: x\n  broker: mqtt://h\n  key: 'pkcs11:token=a?pin-value={PIN}'\n"
    )
    path = tmp_path / "out.tar.gz"
    assert marram("diag", "-c", config, "--yes", "-o", path).returncode == 0
    with tarfile.open(path) as archive:
        whole = b"".join(archive.extractfile(one).read() for one in archive.getmembers())
    assert b"key is not known" in whole
    for secret in (PASSWORD, URL_PASSWORD, PIN):
        assert all(form not in whole for form in forms(secret.encode()))


def minimal(folder):
    path = folder / "marram.yaml"
    path.write_text(
        "device: {name: one, state: state}\nsensors: [{type: host, name: h}]\n"
        f"model: {{bundle: {SHOULDER_BUNDLE}}}\n"
    )
    return path


def test_it_is_listed_and_nobody_is_asked_means_nothing_is_written(tmp_path):
    done = marram("diag", "-c", minimal(tmp_path), "-o", tmp_path / "out.tar.gz")
    assert done.returncode == 1
    assert "--yes writes it" in done.stderr
    assert "configuration.yaml" in done.stdout
    assert marram("diag", "-c", minimal(tmp_path), "--list", "-o", tmp_path / "out.tar.gz").returncode == 0
    assert not (tmp_path / "out.tar.gz").exists()


@pytest.mark.parametrize(("answer", "written"), [(b"y\n", True), (b"\n", False)])
def test_the_question_is_asked_on_a_terminal(tmp_path, answer, written):
    ours, theirs = pty.openpty()
    path = tmp_path / "out.tar.gz"
    command = [sys.executable, "-m", "marram.cli", "diag", "-c", str(minimal(tmp_path)), "-o", str(path)]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.write(ours, answer)
    said, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert f"Write this to {path}?".encode() in said
    assert path.exists() is written
    assert process.returncode == (0 if written else 1)


def test_a_file_that_is_there_is_never_written_over(tmp_path):
    path = tmp_path / "out.tar.gz"
    path.write_text("mine")
    with pytest.raises(DiagError, match="is there already"):
        write(path, {"a": b"b"})
    with pytest.raises(DiagError, match="cannot be written"):
        write(tmp_path / "no" / "out.tar.gz", {})
    assert path.read_text() == "mine"


def entry(message, **more):
    return json.dumps(
        {"MESSAGE": message, "__REALTIME_TIMESTAMP": "1795512098610000", "PRIORITY": "4", **more}
    )


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (entry("ready", LOGGER="marram.daemon", SYSLOG_IDENTIFIER="marram"), "marram: ready"),
        (entry("Started marram.service.", SYSLOG_IDENTIFIER="systemd"), "systemd: Started"),
        (entry('{"start":1,"label":"IR","scores":{}}'), ""),
        (
            entry("sensor a: 3 messages were malformed, the first: 37.25 is no number", LOGGER="x"),
            "malformed\n",
        ),
        (entry([1, 2, 3]), ""),
        ("not json", ""),
        ('{"MESSAGE": "no time"}', ""),
    ],
)
def test_lines_of_the_journal_that_may_hold_measurements_are_left_out(line, wanted):
    found = journal_line(line)
    assert wanted in found if wanted else found == ""
    assert "37.25" not in found


def test_the_archive_can_be_read_by_anybodys_tar(tmp_path):
    write(tmp_path / "a.tar.gz", {"x.txt": b"hello", "empty": b""})
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "a.tar.gz").read_bytes())) as archive:
        assert archive.getnames() == ["a/x.txt", "a/empty"]
