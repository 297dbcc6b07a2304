"""The first start: boards and sensors found on trees of /sys, answers on a terminal, and the YAML of it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from marram.bundle.file import read
from marram.config.load import load
from marram.config.schema import Agent
from marram.setup import boards, sensors
from marram.setup.plan import Answers
from marram.setup.plan import text as plan
from marram.setup.sensors import SetupError

from tests.support import trees
from tests.support.cli import marram
from tests.support.configs import HOST_BUNDLE, RECORDING, ROOT, SHOULDER_BUNDLE
from tests.support.mosquitto import Mosquitto, free_port

DMI = "sys/class/dmi/id"
TREE = "proc/device-tree"


# ---- boards


@pytest.mark.parametrize(
    ("files", "board"),
    [
        ({f"{TREE}/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0"}, "raspberry-pi-5"),
        ({f"{TREE}/compatible": "raspberrypi,5-compute-module\0brcm,bcm2712\0"}, "raspberry-pi-5"),
        ({f"{TREE}/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0"}, "raspberry-pi-4"),
        (
            {f"{TREE}/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0"},
            "jetson-orin-nano",
        ),
        ({f"{TREE}/compatible": "fsl,imx8mp-evk\0fsl,imx8mp\0"}, "imx8m-plus"),
        ({f"{TREE}/compatible": "beagle,am625-beagleplay\0ti,am625\0"}, "beagleplay"),
        ({f"{TREE}/compatible": "radxa,rock-5a\0rockchip,rk3588s\0"}, "rk3588"),
        ({f"{TREE}/compatible": "vendor,unknown\0", f"{TREE}/model": "A board"}, ""),
        ({f"{DMI}/sys_vendor": "QEMU", f"{DMI}/product_name": "Standard PC"}, "virtual-machine"),
        (
            {f"{DMI}/sys_vendor": "Dell", "proc/cpuinfo": "flags : fpu hypervisor avx2"},
            "virtual-machine",
        ),
        ({f"{DMI}/sys_vendor": "Siemens", f"{DMI}/product_name": "IPC227E"}, "x86-64-industrial"),
        ({}, ""),
    ],
)
def test_a_board_is_known_by_what_the_machine_calls_itself(tmp_path, files, board):
    assert boards.find(trees.write(tmp_path, files))[0] == board


def test_every_board_that_has_settings_can_be_found():
    shipped = {path.stem for path in (ROOT / "firmware_configs/boards").glob("*.yaml")}
    named = {board for _, board in boards._COMPATIBLE} | {"virtual-machine", "x86-64-industrial"}
    assert shipped <= named


# ---- sensors


def machine(root: Path) -> Path:
    """A Raspberry Pi 5 with a USB adapter, an empty ttyS0, a real ttyS4, an accelerometer and an I2C bus."""
    iio = "sys/bus/iio/devices/iio:device0"
    trees.write(
        root,
        {
            f"{TREE}/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
            f"{TREE}/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "dev/ttyUSB0": "", "dev/ttyS0": "", "dev/ttyS4": "", "dev/i2c-1": "",
            "sys/class/tty/ttyS0/type": "0", "sys/class/tty/ttyS4/type": "4",
            f"{iio}/name": "adxl345", f"{iio}/in_accel_x_raw": "1", f"{iio}/in_accel_y_raw": "1",
            f"{iio}/in_accel_z_raw": "1", f"{iio}/in_accel_scale": "0.1",
        },
    )  # fmt: skip
    links = root / "dev/serial/by-id"
    links.mkdir(parents=True, exist_ok=True)
    if not (links / "usb-FTDI_A1").is_symlink():
        (links / "usb-FTDI_A1").symlink_to("../../ttyUSB0")
    return root


def test_what_is_there_is_found_by_names_that_stay(tmp_path):
    assert [one.written for one in sensors.find(machine(tmp_path))] == [
        "serial:/dev/serial/by-id/usb-FTDI_A1", "serial:/dev/ttyS4", "iio:adxl345", "host",
    ]  # fmt: skip
    assert sensors.buses(tmp_path) == ["/dev/i2c-1"]
    assert [one.written for one in sensors.find(tmp_path / "nothing")] == ["host"]


@pytest.mark.parametrize(
    "written", ["", "serial", "serial:", "host:x", "camera:/dev/video0", "serial:/dev/a@fast"]
)
def test_what_is_no_sensor_is_refused_with_how_to_write_one(written, tmp_path):
    with pytest.raises(SetupError, match="write"):
        sensors.config(written, ["x"], tmp_path)


def test_names_of_sensors_are_their_own(tmp_path):
    one = sensors.config("serial:/dev/a@9600", ["x"], tmp_path)
    two = sensors.config("serial:/dev/b", ["x"], tmp_path, [one["name"]])
    assert (one["name"], one["baud"], two["name"]) == ("serial", 9600, "serial2")


# ---- the text


def written(folder: Path, *chosen: str, bundle: Path = HOST_BUNDLE, **changes) -> Agent:
    answers = {
        "name": "one",
        "board": "",
        "broker": "",
        "identity": None,
        "state": folder / "state",
        **changes,
    }
    path = folder / "marram.yaml"
    path.write_text(
        plan(Answers(sensors=chosen, bundle=bundle, **answers), read(bundle).manifest, machine(folder))
    )
    return load(path, Agent)


def test_a_device_alone_learns_its_own_normal(tmp_path):
    config = written(tmp_path, "host")
    assert config.model.parameters == "own"
    assert config.learning is not None
    assert config.learning.schedule is not None


def test_a_broker_is_an_output_until_the_device_is_enrolled(tmp_path):
    url = "mqtts://broker.example:8883"
    config = written(tmp_path, "host", broker=url)
    assert config.cloud is None
    assert [getattr(output, "broker", "") for output in config.outputs] == ["", url]
    (tmp_path / "identity").mkdir()
    config = written(tmp_path, "host", broker=url, identity=tmp_path / "identity")
    assert config.cloud is not None
    assert (config.cloud.broker, len(config.outputs)) == (url, 1)
    assert config.learning is not None
    assert config.learning.schedule is None


def test_one_sensor_with_as_many_channels_feeds_the_models_in_order(tmp_path):
    manifest = read(HOST_BUNDLE).manifest
    folder = "sys/bus/iio/devices/iio:device1"
    names = [f"voltage{index}" for index in range(len(manifest.channels))]
    trees.write(tmp_path, {f"{folder}/name": "adc", **{f"{folder}/in_{name}_raw": "1" for name in names}})
    config = written(tmp_path, "iio:adc")
    assert [one.source for one in config.stream.channels.values()] == [f"iio.{name}" for name in names]
    assert tuple(config.stream.channels) == manifest.channel_names


def test_of_two_sensors_with_the_same_channels_the_first_feeds_the_model(tmp_path):
    config = written(tmp_path, "serial:/dev/a", "serial:/dev/b")
    assert {one.source.partition(".")[0] for one in config.stream.channels.values()} == {"serial"}


@pytest.mark.parametrize("name", ["no", "1e3", "1", "device-1", "a.b"])
def test_a_name_that_yaml_takes_for_something_else_stays_a_name(tmp_path, name):
    assert written(tmp_path, "host", name=name).device.name == name


# ---- the command


@pytest.fixture
def place(tmp_path):
    """(root of a machine, file to write, arguments that every call has)."""
    root = machine(tmp_path / "root")
    config = tmp_path / "etc/marram.yaml"
    trees.write(config.parent, {"boards/raspberry-pi-5.yaml": "model: {threads: 3}"})
    more = ["--root", root, "--state", tmp_path / "state", "--identity", tmp_path / "identity"]
    return config, ["setup", "-c", config, "--bundle", HOST_BUNDLE, *more]


def test_without_questions(place):
    config, command = place
    done = marram(*command, "--yes", "--name", "press-07")
    assert done.returncode == 0, done.stderr
    assert "written and valid" in done.stdout
    assert "marram system dropins --write" in done.stdout
    made = load(config, Agent)
    assert (made.device.name, made.model.threads) == ("press-07", 3)
    assert config.stat().st_mode & 0o444 == 0o444  # the service has a user of its own
    assert marram("check", "-c", config).returncode == 0


def test_a_file_that_is_there_is_not_written_over_unasked(place):
    config, command = place
    config.write_text("mine\n")
    done = marram(*command, "--yes")
    assert done.returncode == 1
    assert "--replace" in done.stderr
    assert config.read_text() == "mine\n"
    assert marram(*command, "--yes", "--replace").returncode == 0
    assert config.with_name("marram.yaml.before-setup").read_text() == "mine\n"


def test_without_a_terminal_and_without_yes_nothing_is_written(place):
    config, command = place
    done = marram(*command)
    assert done.returncode == 1
    assert "--yes" in done.stderr
    assert not config.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--board", "raspberry-pi-9"], "there is no board 'raspberry-pi-9'; there are: raspberry-pi-5"),
        (["--sensor", "thermometer"], "'thermometer' is no sensor"),
        (["--broker", "broker.example"], "mqtt://host:port"),
        (["--bundle", "/nowhere.marram"], "name a bundle with --bundle"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(place, arguments, words):
    config, command = place
    done = marram(*command, "--yes", *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert not config.exists()


def test_sensors_that_do_not_feed_the_model_are_noticed(place):
    _, command = place
    done = marram(*command, "--yes", "--bundle", SHOULDER_BUNDLE)
    assert done.returncode == 1
    assert "the channel ax has no source" in done.stdout
    done = marram(*command, "--yes", "--replace", "--bundle", SHOULDER_BUNDLE, "--sensor", f"csv:{RECORDING}")
    assert done.returncode == 0, done.stdout


def test_a_broker_is_tried(place):
    _, command = place
    with Mosquitto(place[0].parent / "mosquitto") as broker:
        done = marram(*command, "--yes", "--broker", broker.url)
        assert "connects in" in done.stdout
    done = marram(*command, "--yes", "--replace", "--broker", f"mqtt://127.0.0.1:{free_port()}")
    assert done.returncode == 0  # it may come later
    assert "nothing listens on port" in done.stdout


class Terminal:
    """A person at a terminal who waits for each question before the answer."""

    def __init__(self, command) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "marram.cli", *map(str, command)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self.said = ""

    def answers(self, question: str, answer: str) -> None:
        self._until(question)
        os.write(self._ours, f"{answer}\n".encode())

    def _until(self, words: str) -> None:
        end = time.monotonic() + 60
        while words not in self.said:
            assert time.monotonic() < end, self.said
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    self.said += os.read(self._ours, 1 << 16).decode(errors="replace")
                except OSError:
                    break
        assert words in self.said, self.said
        self.said = self.said.partition(words)[2]

    def ends(self) -> int:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                data = os.read(self._ours, 1 << 16)
            except OSError:
                break
            self.said += data.decode(errors="replace")
        status = self.process.wait(60)
        os.close(self._ours)
        return status


def test_at_a_terminal(place):
    config, command = place
    person = Terminal(command)
    person.answers("Name of this device [", "press-07")
    person.answers("Raspberry Pi 5 Model B Rev 1.0. Use the settings of raspberry-pi-5?", "")
    person.answers("Which (numbers, nothing for 4)?", "7")
    person.answers("numbers from 1 to 4, please", "4")
    person.answers("MQTT broker", "nonsense")
    person.answers("MQTT broker", f"mqtt://127.0.0.1:{free_port()}")
    person.answers("Use this broker all the same?", "n")
    person.answers("MQTT broker", "")
    person.answers("Write this to", "perhaps")
    person.answers("Write this to", "y")
    assert person.ends() == 0, person.said
    made = yaml.safe_load(config.read_text())
    assert made["extends"] == "raspberry-pi-5"
    assert made["device"]["name"] == "press-07"
    assert [one["type"] for one in made["sensors"]] == ["host"]
    assert len(made["outputs"]) == 1


def test_who_says_no_at_the_end_has_written_nothing(place):
    config, command = place
    person = Terminal([*command, "--name", "one", "--board", "none", "--sensor", "host"])
    person.answers("MQTT broker", "")
    person.answers("Write this to", "no")
    assert person.ends() == 1
    assert not config.exists()


def test_a_file_that_is_there_is_asked_for_at_a_terminal(place):
    config, command = place
    config.write_text("mine\n")
    person = Terminal(command)
    person.answers("is there already. Write it anew", "")
    assert person.ends() == 1
    assert config.read_text() == "mine\n"
