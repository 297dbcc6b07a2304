"""A sensor joins with one file, in the package or in a distribution of its own; a broken one harms none."""

import subprocess
import sys
import textwrap

import pytest
from marram.errors import MarramError
from marram.registry import Registry
from marram.sensors.sensor import SENSORS, SensorConfig, SensorContext

PLUGIN = """
    import threading
    import numpy as np
    from marram.sensors.sensor import SensorConfig
    from marram.stream.blocks import Samples

    class {tag}Config(SensorConfig, frozen=True, kw_only=True, tag="{tag}"):
        '''A sensor of the plant.

        level: what it reads.
        '''

        level: float = 1.0

    class Sensor:
        channels, live, counters = ("level",), True, {{}}

        def __init__(self, config):
            self.name, self.level = config.name, config.level

        def read(self, stop):
            yield Samples(np.zeros(1), np.full((1, 1), self.level, np.float32))

    def open(config, context):
        return Sensor(config)
"""


def write(folder, name, text):
    path = folder / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


def distribute(folder, name, target):
    """An installed distribution that names a sensor module as its entry point."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[marram.sensors]\n{name} = {target}\n")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of sensors of the test's own, importable under a name of its own."""
    name = f"plant_{tmp_path.name.replace('-', '_')}"
    write(tmp_path / name, "__init__", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / name


def registry(package, group="nobody.names.this"):
    return Registry(package.name, group, SensorConfig)


def test_the_shipped_sensors_are_there_and_none_is_broken():
    assert {"csv", "host", "mqtt", "stdin"} <= SENSORS.plugins.keys()
    assert SENSORS.broken == {}


def test_one_file_in_the_package_is_a_sensor(package):
    write(package, "level", PLUGIN.format(tag="level"))
    plugins = registry(package).plugins
    config = plugins["level"].config(name="tank", level=4.0)
    sensor = registry(package).open(config, SensorContext())
    (samples,) = sensor.read(None)
    assert (sensor.name, samples.values.tolist()) == ("tank", [[4.0]])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "import a_library_that_nobody_has",
            "ModuleNotFoundError: No module named 'a_library_that_nobody_has'",
        ),
        ("def open(:\n", "SyntaxError: "),
        ("raise OSError('no such bus')", "OSError: no such bus"),
    ],
)
def test_a_file_that_cannot_be_imported_is_kept_with_the_reason_and_harms_no_other(package, text, reason):
    write(package, "level", PLUGIN.format(tag="level"))
    write(package, "bus", text)
    broken = registry(package)
    assert broken.broken["bus"].startswith(reason)
    assert list(broken.plugins) == ["level"]


def test_a_configuration_of_a_foreign_kind_is_refused(package):
    from marram.sensors.host import HostConfig

    with pytest.raises(MarramError, match=f"no plugin of {package.name} takes a HostConfig"):
        registry(package).open(HostConfig(name="h"), SensorContext())


def check(folder, text):
    """``marram check`` where the distributions in a folder are installed."""
    (folder / "agent.yaml").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "marram.cli", "check", "-c", str(folder / "agent.yaml")],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin"},
        timeout=60,
        check=False,
    )


def test_a_distribution_adds_a_sensor_that_yaml_can_name(tmp_path):
    write(tmp_path, "tank_sensor", PLUGIN.format(tag="tank"))
    distribute(tmp_path, "tank", "tank_sensor")
    done = check(tmp_path, "sensors: [{type: tank, name: a, level: 3}]\nmodel: {bundle: agent.yaml}\n")
    assert (done.returncode, done.stderr) == (0, "")
    wrong = check(tmp_path, "sensors: [{type: tank, name: a, levle: 3}]\nmodel: {bundle: agent.yaml}\n")
    assert "agent.yaml:1:33: sensors[0].levle: this key is not known; did you mean 'level'?" in wrong.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import a_library_that_nobody_has", "No module named 'a_library_that_nobody_has'"),
        ("", "has no SensorConfig with a tag of its own, or no function open"),
    ],
)
def test_a_broken_distribution_is_an_error_only_for_those_who_ask_for_it(tmp_path, text, reason):
    write(tmp_path, "tank_sensor", text)
    distribute(tmp_path, "tank", "tank_sensor")
    good = check(tmp_path, "sensors: [{type: host, name: a}]\nmodel: {bundle: agent.yaml}\n")
    assert (good.returncode, good.stderr) == (0, "")
    bad = check(tmp_path, "sensors: [{type: tank, name: a, level: 3}]\nmodel: {bundle: agent.yaml}\n")
    assert bad.returncode == 1
    assert "agent.yaml:1:18: sensors[0].type: 'tank' is installed but cannot be used: " in bad.stderr
    assert reason in bad.stderr
