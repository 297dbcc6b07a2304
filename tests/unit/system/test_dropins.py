"""What the units are opened for, out of the YAML."""

import os
import pty
import subprocess
from pathlib import Path

import pytest
from marram.config.load import loads
from marram.config.schema import Agent
from marram.config.values import Place
from marram.system.devices import Need, needs
from marram.system.dropins import dropins
from marram.system.install import write

UNITS = Path(__file__).parents[3] / "systemd"
BASE = "device: {{state: {state}}}\nmodel: {{bundle: /etc/marram/a.marram}}\nsensors: [{sensor}]\n"
SENSORS = {
    "host": "{type: host, name: h}",
    "serial": "{type: serial, name: s, port: /dev/ttyUSB0, channels: [a]}",
    "named": "{type: serial, name: s, port: header, channels: [a]}",
    "i2c": "{type: i2c, name: c, bus: /dev/i2c-1, address: 0x68, channels: {a: {register: 0}}}",
    "iio": "{type: iio, name: k, device: adxl345, channels: [accel_x]}",
}
BOARD = "board: {serial: {header: /dev/ttyAMA0}}\n"


def texts(sensor, more="", state="/var/lib/marram"):
    text = BASE.format(state=state, sensor=", ".join(SENSORS[one] for one in sensor.split())) + more
    config = loads(text, Agent, "x.yaml", Place(Path("/etc/marram"), False))
    return dropins(config, lambda path: [Need(f"char-{path[5:].rstrip('0123456789-')}", "dialout")])


def lines(sensor, more="", **keys):
    return texts(sensor, more, **keys)["marram.service"].splitlines()[2:]


def test_what_opens_no_device_needs_no_dropin():
    assert texts("host")["marram.service"] == ""
    assert lines("iio") == []


def test_each_device_is_opened_by_its_class_and_group_and_nothing_else():
    assert lines("serial i2c host") == [
        "PrivateDevices=no",
        "DeviceAllow=char-ttyUSB rw",
        "DeviceAllow=char-i2c rw",
        "SupplementaryGroups=dialout",
    ]


def test_the_boards_name_of_a_port_is_followed():
    assert "DeviceAllow=char-ttyAMA rw" in lines("named", BOARD)


def test_folders_outside_of_the_state_are_opened():
    more = "outputs: [{type: jsonl, path: /srv/out/p.jsonl}, {type: jsonl, path: /var/lib/marram/p.jsonl}]\n"
    assert lines("host", more) == ["ReadWritePaths=/srv/out"]
    both = texts("host", state="/data/marram")
    assert "ReadWritePaths=/data/marram" in both["marram.service"]
    assert "ReadWritePaths=/data/marram" in both["marram-work@.service"]


def test_the_limit_of_children_follows_the_trainers():
    more = "learning: {trainer: {memory: 1GiB}}\n"
    assert f"MemoryMax={(1 << 30) + (256 << 20)}" in texts("host", more)["marram-work@.service"]


def test_keys_in_credentials_and_tokens():
    cloud = "cloud: {{identity: /var/lib/marram/identity, broker: 'mqtts://b', key: '{}'}}\n"
    assert "LoadCredentialEncrypted=device.key:/etc/credstore.encrypted/marram.device.key" in lines(
        "host", cloud.format("credential:device.key")
    )
    assert "DeviceAllow=char-tpmrm rw" in lines("host", cloud.format("pkcs11:token=t;object=o"))


def test_a_device_that_is_there_tells_its_class_and_group(tmp_path):
    end, device = pty.openpty()
    link = tmp_path / "scale"
    link.symlink_to(os.ttyname(device))
    assert [need.allow for need in needs(str(link))] == ["char-pts"]
    os.close(end)
    os.close(device)


def test_a_device_that_is_not_there_is_known_by_its_name():
    assert [need.allow for need in needs("/dev/ttyUSB42")] == ["char-ttyUSB"]
    assert [need.allow for need in needs("/dev/serial/by-id/usb-x-if00")] == ["char-ttyUSB", "char-ttyACM"]
    assert needs("/dev/strange0") == [Need("/dev/strange0", "")]
    assert needs("/etc/hostname") == []


def test_dropins_are_written_changed_and_taken_away(tmp_path):
    both = texts("serial")
    paths = write(both, tmp_path)
    assert sorted(path.parent.name for path in paths) == ["marram-work@.service.d", "marram.service.d"]
    assert write(both, tmp_path) == []
    (gone,) = write(both | {"marram.service": ""}, tmp_path)
    assert not gone.exists()


@pytest.mark.parametrize(("sensor", "most"), [("host", 1.5), ("serial i2c iio host", 2.0)])
@pytest.mark.skipif(not Path("/usr/bin/systemd-analyze").exists(), reason="systemd-analyze is not installed")
def test_the_units_exposure_is_within_its_limit(tmp_path, sensor, most):
    for unit, text in texts(sensor).items():
        folder = tmp_path / unit
        folder.mkdir()
        # An option that stands later replaces the earlier one, as in a drop-in.
        (folder / unit).write_text((UNITS / unit).read_text() + text)
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", f"--threshold={most * 10:.0f}", folder / unit],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-300:] + done.stderr
